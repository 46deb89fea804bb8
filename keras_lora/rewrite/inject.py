"""Rewriting a model in place: what can be, inject, and eject."""

import uuid
import weakref
from typing import Any

import keras
from keras import ops

from keras_lora.errors import raise_if
from keras_lora.methods import method_of
from keras_lora.methods.lora import lora_class
from keras_lora.methods.method import Config, Fill, Settings
from keras_lora.model import graphs
from keras_lora.model.checks import unbuilt
from keras_lora.model.compiled import forget_compiled
from keras_lora.model.fingerprint import (
    Digests,
    by_name,
    digests_of,
    is_sampled,
)
from keras_lora.model.paths import own_variables, structural_paths
from keras_lora.model.surgery import Layer
from keras_lora.rewrite.adapted import Adapted
from keras_lora.rewrite.checks import not_a_base, untrainable
from keras_lora.rewrite.member import attach_layer, detach_layer, flags_of
from keras_lora.rewrite.membership import Base, Outputs, member_of, membership
from keras_lora.rewrite.presets import guard_presets
from keras_lora.settings import wrong_targets
from keras_lora.targets import (
    ALL_LINEAR,
    Targets,
    linear_targets,
    trained_paths,
)


def find_targets(model: Layer, targets: Targets = ALL_LINEAR) -> list[str]:
    """Lists the layers that `inject` would give LoRA weights.

    Args:
        model: A built Keras model, adapted or not.
        targets: As in `LoRAConfig`.

    Returns:
        Structural paths, in the order of the model's layers.

    Raises:
        ValueError: The model is not built, or an entry matches nothing.

    Example:

    ```python
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    keras_lora.find_targets(model)  # ["dense"]
    ```
    """
    layers = structural_paths(model)
    problems = unbuilt(layers) + wrong_targets(targets)
    raise_if("No targets were looked for", problems)
    paths, problems = linear_targets(layers, targets, set(), lora_class)
    raise_if("Targets were not found", problems)
    return paths


def inject(model: Any, config: Config, *, train: Targets = ()) -> Any:
    """Freezes a model and attaches adapter weights to it, in place.

    Every weight of the model is frozen for good, `BatchNormalization`
    statistics included: `model.trainable = True` frees adapter weights only.
    Compiled models that hold the model's layers ask for `compile` again.

    Args:
        model: A built Keras model. It is marked as the base: paths in adapter
            files count from it. A head goes on top of it, or is named in
            `train`.
        config: `LoRAConfig`, `DoRAConfig`, `IA3Config`, `AdapterConfig` or
            `SideConfig`.
        train: Layers of the model that train as they are, such as a head or
            norms; matched as a list or regular expression of targets, with
            everything below them.

    Returns:
        The same model.

    Raises:
        ValueError: The model is not built, is adapted already or holds a
            layer that cannot be frozen; a target or pattern matches nothing;
            a target cannot carry the adapter. Everything wrong is listed, and
            the model is as it was.

    Example:

    ```python
    base = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    keras_lora.inject(base, keras_lora.LoRAConfig(rank=2))
    model = keras.Sequential([base, keras.layers.Dense(1)])
    model.compile("adam", "mse")
    ```
    """
    method = method_of(config)
    layers = structural_paths(model)
    trained, missing = trained_paths(layers, train)
    wanted = config.plan(method, layers, trained)
    problems = not_a_base(layers)
    problems += missing + wanted.problems
    problems += untrainable(layers, trained)
    raise_if("inject: nothing was changed", problems)
    targets = {path: layers[path] for path in wanted.settings}
    settings, fill = wanted.begin(model, targets, wanted.settings)
    attach(layers, settings, trained, fill)
    forget_compiled(layers.values())
    return model


def attach(
    layers: dict[str, Layer],
    settings: dict[str, Settings],
    trained: set[str],
    fill: Fill = lambda hosts: None,
    digests: Digests | None = None,
    outputs: Outputs = None,
) -> None:
    """Makes one adapted base of `layers`, or leaves them as they were.

    `settings` are those of each host, `fill` gives its weights first values.
    `digests` are those of the layers, where they have just been taken.
    `outputs` are the layers that make the base's outputs, where its root is
    not among its layers.
    """
    guard_presets()
    base = Base(
        uid=uuid.uuid4().hex,
        sampled=is_sampled(layers.values()),
        hosts=tuple(settings),
        trained=tuple(path for path in layers if path in trained),
        outputs=base_outputs(layers) if "" in layers else outputs,
    )
    if digests is None:
        frozen = {p: la for p, la in layers.items() if p not in trained}
        digests = digests_of(frozen, base.sampled)
    together = weakref.WeakSet(layers.values())
    flags = flags_of(layers)
    try:
        for path, layer in layers.items():
            attach_layer(layer, base, path, settings.get(path), flags[path])
            mine = member_of(layer)
            mine.attached_with = together
            if path in trained:
                mine.originals = {
                    name: ops.convert_to_numpy(variable).copy()
                    for name, variable in own_variables(layer).items()
                }
            else:
                mine.digests = by_name(digests, layer, path)
        fill({path: layers[path] for path in settings})
    except BaseException:
        for layer in layers.values():
            if membership(layer) is not None:
                detach_layer(layer)
        raise


def base_outputs(layers: dict[str, Layer]) -> Outputs:
    """Which layers make the outputs of the base whose root is `layers[""]`."""
    root = layers.get("")
    if root is None or not graphs.has_graph(root):
        return None
    path_of = {id(layer): path for path, layer in layers.items()}
    found = []
    for tensor in keras.tree.flatten(root.outputs):
        operation, index, _ = graphs.graph_source(tensor)
        if id(operation) not in path_of:
            return None
        found.append((path_of[id(operation)], index))
    return tuple(found)


def eject(model: Any) -> Any:
    """Takes the adapter off again and gives the base back, bit for bit.

    Classes, weights, their order and trainable flags are as before `inject`;
    layers that trained by `train=` get their values back. Compiled models
    that hold the layers ask for `compile` again.

    Args:
        model: The adapted model, or one it is nested in.

    Returns:
        The same model.

    Raises:
        ValueError: The model holds no adapter, several, a part of one or one
            that is switched off; or it came from a `.keras` file that has no
            original values of layers named in `train`.

    Example:

    ```python
    base = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    keras_lora.inject(base, keras_lora.LoRAConfig(rank=2))
    keras_lora.eject(base)
    ```
    """
    found = Adapted(model)
    problems = found.problems + found.switched_off + found.without_originals
    raise_if("eject: nothing was changed", problems)
    layers = found.all_layers
    for layer in layers:
        for name, value in (member_of(layer).originals or {}).items():
            own_variables(layer)[name].assign(value)
        detach_layer(layer)
    forget_compiled(layers)
    return model
