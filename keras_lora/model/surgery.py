"""What is done to layers by Keras's private parts.

No other file touches these but `graphs`, which reads symbolic graphs.

Each function names the law of the design that fails without it.
"""

import functools
import inspect
import warnings
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

import keras
from keras.src.backend.common import global_state
from keras.src.models.functional import Functional

Layer: TypeAlias = Any
"""A `keras.layers.Layer`; Keras ships no types."""
KERNEL = "_kernel"
"""Where a layer that is no embedding keeps its stored kernel."""
FLAG = "_trainable"
"""Where a layer keeps its own trainable flag."""


def children(layer: Layer) -> list[Layer]:
    """The layers right below `layer`, in the order Keras tracks them."""
    return list(layer._layers)


def every_layer(model: Layer) -> list[Layer]:
    """`model` and all layers below it, in the order of structural paths.

    `model.layers` misses the sublayers of layers, so a base could train.
    """
    found: dict[int, Layer] = {}
    waiting = [model]
    while waiting:
        layer = waiting.pop()
        if id(layer) not in found:
            found[id(layer)] = layer
            waiting.extend(reversed(children(layer)))
    return list(found.values())


def subclasses(cls: type) -> set[type]:
    """All classes below one."""
    found: set[type] = set(cls.__subclasses__())
    return found.union(*map(subclasses, found))


def is_made(model: Layer) -> bool:
    """Whether a model's constructor has come to where it may hold layers."""
    return hasattr(model, "_layers")


def tracked_variables(layer: Layer) -> list[Any]:
    """The variables that `layer` owns itself, in the order of `weights`."""
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def trainable_kind(layer: Layer) -> list[Any]:
    """The layer's own variables that train unless a flag says otherwise."""
    return list(layer._trainable_variables)


def takes_raw_inputs(layer: Layer) -> bool:
    """Whether a layer takes what is no tensor yet, such as texts.

    It makes a model's inputs and is no part of its forward pass.
    """
    return not layer._convert_input_args


def builds_itself(layer: Layer) -> bool:
    """Whether a layer has a `build` of its own, the place to make weights."""
    return not getattr(layer.build, "_is_default", False)


def is_container(layer: Layer) -> bool:
    """Whether Keras saves the layer's sublayers in its own config.

    Such a model needs no help to come back from a `.keras` file.
    """
    return type(layer) in (Functional, keras.Sequential)


def view(layer: Layer, cls: type, twin: Any = None, **overrides: Any) -> Any:
    """The same layer's state under another class; `layer` is not changed.

    Runs a host's own `call`, saving or config without its adapter. A flag set
    and reset on the layer itself would leak into other threads. `twin` is an
    earlier view to bring up to date.
    """
    twin = object.__new__(cls) if twin is None else twin
    twin.__dict__.clear()
    twin.__dict__.update(layer.__dict__)
    for name in ("call", "quantized_call"):
        twin.__dict__.pop(name, None)  # what watches the layer itself
    twin.__dict__.update(overrides)
    return twin


def forget_calls(layer: Layer) -> None:
    """Makes a view a layer of its own in graphs."""
    layer.__dict__.update(_inbound_nodes=[], _outbound_nodes=[])


def without(layer: Layer, variables: Iterable[Any]) -> dict[str, Any]:
    """Overrides for `view` that hide some of the layer's variables."""
    hidden = {id(v) for v in variables}
    return {
        name: [v for v in getattr(layer, name) if id(v) not in hidden]
        for name in ("_trainable_variables", "_non_trainable_variables")
    }


def add_weight(layer: Layer, **options: Any) -> Any:
    """Adds a float32 weight to a built layer, last in its `weights`.

    A built layer's tracker is locked. The weight is kept among the layer's
    non-trainable ones (its own flag says that it trains), since a quantized
    kernel stands there and adapter weights come after it.
    """
    tracker = layer._tracker
    locked = tracker.locked
    tracker.unlock()
    try:
        variable = layer.add_weight(dtype="float32", autocast=False, **options)
        trains = options.get("trainable", True) and trainable_flag(layer)
        variable.trainable = trains
        store = "non_trainable_variables"
        tracker.untrack(variable)
        tracker.config[store][1].append(variable)
        tracker.stored_ids[store].add(id(variable))
    finally:
        if locked:
            tracker.lock()
    return variable


def remove_weight(layer: Layer, variable: Any) -> None:
    """Takes a weight off a layer again (`eject`, `merge`)."""
    layer._untrack_variable(variable)


def add_seed(layer: Layer, generator: Any) -> None:
    """Lets backends that trace without side effects see a state.

    It is neither a weight nor in a file. `generator` has it as `.state`.
    """
    layer._seed_generators.append(generator)


def remove_seed(layer: Layer, generator: Any) -> None:
    """Takes a seed off a layer again."""
    layer._seed_generators[:] = [
        seed for seed in layer._seed_generators if seed is not generator
    ]


def set_class(layer: Layer, cls: type) -> None:
    """Changes what a layer is and keeps the object.

    A wrapper object in its place would break graphs, attribute access,
    `isinstance`, sharing and the base's checkpoints.
    """
    layer.__class__ = cls


def unpickled(buffer: Any) -> Layer:
    """The layer in a buffer that Keras wrote to pickle it."""
    return keras.layers.Layer._unpickle_model(buffer)


def trainable_flag(layer: Layer) -> bool:
    """The layer's own flag, whatever its `trainable` answers."""
    return bool(layer._trainable)


def set_trainable_flag(layer: Layer, value: bool) -> None:
    """Sets the layer's own flag and nothing below it."""
    layer._trainable = value


def kernel_of(layer: Layer) -> Any:
    """The variable that holds a host's stored kernel."""
    return layer._embeddings if hasattr(layer, "_embeddings") else layer._kernel


def first_argument(host: type, args: Any, kwargs: dict[str, Any]) -> Any:
    """What a layer's call is given first, by place or by name."""
    if args:
        return args[0]
    _, name, *_ = inspect.signature(host.call).parameters  # type: ignore[attr-defined]
    return kwargs.get(name)


def in_a_call() -> bool:
    """Whether this thread is within the call of some layer.

    What a kernel is to the layers around its own, it is there alone: to who
    looks at the base it is the base's variable.
    """
    return global_state.get_global_attribute("current_call_ctx") is not None


def is_traced(x: Any) -> bool:
    """Whether a layer that is called on `x` is being compiled.

    Nothing that Python says then is said again when the function runs.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return not tf.executing_eagerly()
    if backend == "jax":
        import jax

        return isinstance(x, jax.core.Tracer)
    return False


def when_not_compiled(why: Callable[[Any], str]) -> None:
    """Adds a reason to what models say that are asked to train uncompiled."""
    asked = keras.Model._assert_compile_called

    def ask(model: Any, *args: Any, **kwargs: Any) -> None:
        try:
            asked(model, *args, **kwargs)
        except ValueError as error:
            raise ValueError(f"{error}{why(model)}") from None

    keras.Model._assert_compile_called = functools.update_wrapper(ask, asked)


class SteppedBySpeed:
    """Mixin: an optimizer whose step on a variable depends on its speed.

    `update_step` is the public place for it, but the optimizers of the torch
    backend update all variables at once and never call it.
    """

    def speed(self, variable: Any) -> float:
        """What the learning rate is multiplied by for a variable."""
        raise NotImplementedError

    def _backend_update_step(
        self, grads: list[Any], trainable_variables: list[Any], rate: Any
    ) -> None:
        pairs = list(zip(grads, trainable_variables, strict=True))
        for speed in sorted({self.speed(v) for v in trainable_variables}):
            some = [(g, v) for g, v in pairs if self.speed(v) == speed]
            super()._backend_update_step(  # type: ignore[misc]
                [g for g, _ in some], [v for _, v in some], rate * speed
            )


def patched(
    layer: Layer, name: str, act: Callable[..., Any]
) -> Callable[[], None]:
    """Puts a function in the place of a method, on this one layer.

    It is called with the method as it was before its own arguments: what the
    layer had itself, or else what its class has at the time. Returns a
    function that brings back what was there.
    """
    own = layer.__dict__.get(name)

    def before(*args: Any, **kwargs: Any) -> Any:
        if own is not None:
            return own(*args, **kwargs)
        return getattr(type(layer), name)(layer, *args, **kwargs)

    def restore() -> None:
        if own is None:
            layer.__dict__.pop(name, None)
        else:
            layer.__dict__[name] = own

    layer.__dict__[name] = functools.update_wrapper(
        functools.partial(act, before), getattr(layer, name)
    )
    return restore


def when_built(layer: Layer, act: Callable[[], None]) -> None:
    """Runs `act` right after the layer is built.

    Sublayers that a block builds in its `call` are not built yet when the
    block comes back from a config; their adapters would be dropped.
    """

    def build(before: Any, *args: Any, **kwargs: Any) -> None:
        restore()
        before(*args, **kwargs)
        act()

    restore = patched(layer, "build", build)


def is_random(layer: Any) -> bool:
    """Whether an operation has a seed of its own, such as `Dropout`."""
    return bool(getattr(layer, "_seed_generators", ()))


def build_shape(layer: Layer) -> list[int | None] | None:
    """The one shape that a layer was built with, as JSON has it."""
    shapes = [s for s in (layer._build_shapes_dict or {}).values() if s]
    if len(shapes) != 1 or not isinstance(shapes[0], list | tuple):
        return None
    if not all(n is None or isinstance(n, int) for n in shapes[0]):
        return None
    return [None if n is None else int(n) for n in shapes[0]]


def forbid_training(model: Layer, reason: str) -> list[Callable[[], None]]:
    """Makes `fit` and its like say why they are refused.

    Returns functions that undo it.
    """

    def refused(*_: Any, **__: Any) -> None:
        raise ValueError(f"{model.name!r} does not train: {reason}")

    return [
        patched(model, name, refused)
        for name in ("fit", "train_on_batch")
        if hasattr(model, name)
    ]


def run_within(
    layer: Layer,
    names: Iterable[str],
    hold: Callable[[], AbstractContextManager[Any]],
) -> list[Callable[[], None]]:
    """Makes methods of a layer run within a context each.

    On JAX, Keras empties a model's variables while its `predict` runs; who
    reads or adds some then finds none, or has them mixed up. Returns
    functions that undo it.
    """

    def held(before: Any, *args: Any, **kwargs: Any) -> Any:
        with hold():
            return before(*args, **kwargs)

    return [
        patched(layer, name, held) for name in names if hasattr(layer, name)
    ]


def hold_inference(layer: Layer, reason: str) -> list[Callable[[], None]]:
    """Makes a layer run as it predicts in an outer model that trains.

    An error from within a training step would cost the base its weights:
    Keras empties a model's variables while a step runs on JAX. Returns
    functions that undo it.
    """

    def held(before: Any, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("training"):
            warnings.warn(f"The base does not train: {reason}", stacklevel=2)
            kwargs["training"] = False
        return before(*args, **kwargs)

    return [
        patched(layer, name, held)
        for name in ("call", "quantized_call")
        if hasattr(layer, name)
    ]


def record_calls(
    layer: Layer, seen: Callable[[Any, Any], None]
) -> Callable[[], None]:
    """Shows each call's inputs and outputs; returns what ends that."""

    def call(before: Any, *args: Any, **kwargs: Any) -> Any:
        outputs = before(*args, **kwargs)
        seen((args, kwargs), outputs)
        return outputs

    return patched(layer, "call", call)
