"""A model in two: what cannot change, and what trains."""

import warnings
from collections.abc import Callable
from typing import Any

import keras

from keras_lora.errors import raise_if, shorten
from keras_lora.model import graphs, surgery
from keras_lora.model.checks import unbuilt
from keras_lora.model.paths import Layers, structural_paths
from keras_lora.model.surgery import Layer
from keras_lora.rewrite.checks import served
from keras_lora.split.choose import Cut, has_weights, trained_by, without_rows
from keras_lora.split.graph import (
    Apart,
    Tensor,
    again,
    calls_to,
    maker,
    written_out,
)
from keras_lora.split.names import feature_names, names_of

ACTION = "split: nothing was split"
DROPOUTS = (
    keras.layers.Dropout,
    keras.layers.AlphaDropout,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.SpatialDropout3D,
)


@keras.saving.register_keras_serializable("keras_lora")
class WithMask(keras.layers.Layer):
    """Puts a Keras mask on a tensor: none comes with a feature from a file."""

    def __init__(self, **options: Any) -> None:
        super().__init__(autocast=False, **options)
        self.supports_masking = True

    def call(self, inputs: Any, mask: Any = None) -> Any:
        """A tensor of its own: the caller's gets no mask."""
        return keras.ops.copy(inputs)


def split(model: Any) -> tuple[Any, Any]:
    """Cuts a model in two where the first thing that trains comes in.

    `trainable(frozen(x))` equals `model(x)`. Both hold the model's own layers
    and variables, so what `trainable` learns, the model has learned:
    `model.predict` and `save_adapter(model, path)` go on as ever. What
    `frozen` gives does not change while `trainable` trains: compute it once,
    with `precompute` or `frozen.predict`, and let each epoch start from there.

    The frozen part runs as it predicts: its dropout is off. Dropout that
    stands right at the cut stays in the part that trains.

    Args:
        model: A built functional or `Sequential` model, or a KerasHub one,
            adapted or not; models nested in it may be cut through. A KerasHub
            task is cut without its preprocessor.

    Returns:
        Two functional models. The first takes what the model takes and gives
        one tensor, or a dict of them by name: with the features come the
        masks and inputs that later layers read. The second takes that.

    Raises:
        ValueError: The model has no graph, nothing in it trains, or nothing
            with weights comes before what trains; the layers that stand in
            the way are named.

    Example:

    ```python
    base = keras.Sequential(
        [keras.Input((8,))] + [keras.layers.Dense(8, "relu") for _ in range(4)]
    )
    keras_lora.inject(base, keras_lora.LoRAConfig(rank=2, targets=["dense_3"]))
    model = keras.Sequential([base, keras.layers.Dense(1)])
    frozen, trainable = keras_lora.split(model)
    features = frozen.predict(np.ones((16, 8)), verbose=0)
    trainable.compile("adam", "mse")
    trainable.fit(features, np.ones((16, 1)), epochs=3, verbose=0)
    ```
    """
    raise_if(ACTION, not_to_cut(model))
    outputs = written_out(model)
    flat = keras.tree.flatten(outputs)
    cut = Cut(flat, trained_by(model.trainable_variables))
    paths = structural_paths(model)
    raise_if(ACTION, nothing_to_gain(cut, paths))
    cut.lighten()
    frozen, crossing = frozen_part(model, cut, paths)
    if keras.backend.backend() == "tensorflow":
        frozen.jit_compile = False  # XLA compiles anew for every length
    warn_of_noise(cut, paths)
    return frozen, trainable_part(model, cut, crossing, outputs)


def cut_before(
    model: Any, begins: Callable[[Any], bool], apart: Apart
) -> tuple[Any, Any] | None:
    """Cuts a model where certain operations come in.

    Args:
        model: A model.
        begins: Whether an operation is one of them.
        apart: How an operation is called in several, as in `written_out`.

    Returns:
        As `split`; None where the model has no graph, or nothing with weights
        comes before them.
    """
    if not graphs.has_graph(model) or not graphs.runs_its_graph(model):
        return None
    outputs = written_out(model, apart)
    cut = Cut(keras.tree.flatten(outputs), begins)
    if not cut.first or not any(map(has_weights, cut.earlier)):
        return None
    cut.lighten()
    frozen, crossing = frozen_part(model, cut, structural_paths(model))
    return frozen, trainable_part(model, cut, crossing, outputs)


def not_to_cut(model: Any) -> list[str]:
    """What keeps a model from being cut at all."""
    if not isinstance(model, keras.Model):
        return [f"a Keras model is needed. Received: {type(model).__name__}"]
    layers = structural_paths(model)
    problems = unbuilt(layers) + served(layers.values())
    kind = type(model).__name__
    if not graphs.has_graph(model):
        if not problems or not isinstance(model, keras.Sequential):
            problems.append(
                f"{model.name!r} is a subclassed model ({kind}): it has no "
                "graph to cut"
            )
    elif not graphs.runs_its_graph(model):
        problems.append(
            f"{model.name!r} ({kind}) has a `call` of its own beside its graph"
        )
    if not problems and not model.trainable_variables:
        problems.append(
            f"nothing in {model.name!r} trains: `inject` an adapter, or put a "
            "head on it"
        )
    return problems


def nothing_to_gain(cut: Cut, paths: Layers) -> list[str]:
    """Says which layers leave nothing to be computed once."""
    if any(map(has_weights, cut.earlier)):
        return []
    if not cut.first:
        return ["nothing that trains leads to an output"]
    names = names_of(cut.first, paths)
    problems = []
    for call, name in zip(cut.first, names, strict=True):
        layer = call.operation
        whole = isinstance(layer, keras.Model)
        inside = f" ({type(layer).__name__}, with no graph to cut within)"
        problems.append(
            f"{name}{inside if whole else ''}: trains, and no layer with "
            "weights comes before it"
        )
    return problems


def frozen_part(
    model: Layer, cut: Cut, paths: Layers
) -> tuple[Any, dict[str, Tensor]]:
    """The model up to the cut, and what crosses, by name.

    What has no row for each of a batch's is made again in training: nothing
    could cut it into batches.
    """
    while True:
        crossing = feature_names(cut.crossing, cut, paths)
        outputs = next(iter(crossing.values())) if len(crossing) == 1 else None
        frozen = assembled(
            graphs.untracked(graphs.graph_inputs(model)),
            crossing if outputs is None else outputs,
            f"{model.name}_frozen",
        )
        flat = keras.tree.flatten(frozen.output)
        odd = without_rows(frozen, flat)
        if not odd or not cut.bring(odd):
            return frozen, crossing


def trainable_part(
    model: Layer, cut: Cut, crossing: dict[str, Tensor], outputs: Any
) -> Any:
    """The model from the cut on."""
    inputs = {
        name: keras.Input(
            batch_shape=tensor.shape,
            dtype=tensor.dtype,
            sparse=tensor.sparse,
            name=name,
        )
        for name, tensor in crossing.items()
    }
    known = {id(tensor): inputs[name] for name, tensor in crossing.items()}
    bare = dict(known)
    for tensor in crossing.values():
        mask = graphs.mask_of(tensor)
        if mask is not None:
            carried = WithMask()(bare[id(tensor)], mask=bare[id(mask)])
            known[id(tensor)] = carried
    for call in cut.calls:
        if id(call) in cut.later:
            again(call, known)
    return assembled(
        next(iter(inputs.values())) if len(inputs) == 1 else inputs,
        keras.tree.map_structure(lambda tensor: known[id(tensor)], outputs),
        f"{model.name}_rest",
    )


def assembled(inputs: Any, outputs: Any, name: str) -> Any:
    """A functional model, of layers that may have equal names."""
    own = [maker(tensor) for tensor in keras.tree.flatten(inputs)]
    calls = [*own, *calls_to(keras.tree.flatten(outputs))]
    with graphs.named_apart(call.operation for call in calls) as renamed:
        made = keras.Model(inputs, outputs, name=name)
    if renamed:
        surgery.patched(made, "get_config", refuse_config)
    return made


def refuse_config(*_: Any) -> None:
    """Raises where a config would name two layers alike."""
    raise ValueError(
        "A part of a split model is not saved where two of its layers have "
        "the same name: save the model itself, or `save_weights`"
    )


def warn_of_noise(cut: Cut, paths: Layers) -> None:
    """Says which random layers other than dropout now run once."""
    noisy = [
        call
        for call in cut.earlier
        if surgery.is_random(call.operation)
        and not isinstance(call.operation, DROPOUTS)
        and not has_weights(call)
    ]
    if noisy:
        warnings.warn(
            "Random layers are in the frozen part, which runs as it predicts: "
            + shorten(names_of(noisy, paths)),
            stacklevel=3,
        )
