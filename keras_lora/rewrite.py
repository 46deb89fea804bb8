"""Rewriting a model in place: inject and eject."""

import uuid
import weakref
from typing import Any

import keras
from keras import ops

from keras_lora import surgery
from keras_lora.bottleneck import unknown_activation
from keras_lora.checks import (
    incomplete,
    not_adaptable,
    not_freezable,
    occupied,
    switched_off,
    unbuilt,
    without_originals,
)
from keras_lora.config import (
    AdapterConfig,
    Config,
    LoRAConfig,
    Targets,
    pattern_matches,
)
from keras_lora.fingerprint import is_sampled, layer_digests
from keras_lora.member import (
    Base,
    Settings,
    everyone,
    join_base,
    leave_base,
    member_of,
    members,
    membership,
)
from keras_lora.paths import own_variables, structural_paths
from keras_lora.problems import refuse
from keras_lora.surgery import Layer
from keras_lora.targets import (
    lora_targets,
    output_settings,
    output_targets,
    trained_paths,
)


def inject(model: Any, config: Config, *, train: Targets = ()) -> Any:
    """Freezes a model and attaches adapter weights to it, in place.

    Every weight of the model is frozen for good, `BatchNormalization`
    statistics included: `model.trainable = True` frees adapter weights only.
    Compiled models that hold the model's layers ask for `compile` again.

    Args:
        model: A built Keras model. It is marked as the base: paths in adapter
            files count from it. A head goes on top of it, or is named in
            `train`.
        config: `LoRAConfig` or `AdapterConfig`.
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
    if not isinstance(config, LoRAConfig | AdapterConfig):
        raise ValueError(
            "`config` must be a LoRAConfig or an AdapterConfig. "
            f"Received: config={config!r}"
        )
    layers = structural_paths(model)
    problems = unbuilt(layers) + occupied(layers) + not_freezable(layers)
    trained, missing = trained_paths(layers, train)
    problems += missing
    if isinstance(config, LoRAConfig):
        targets, missing = lora_targets(layers, config.targets, trained)
        problems += missing + not_adaptable(layers, targets)
        settings = {path: config.settings_for(path) for path in targets}
    else:
        targets, missing = output_targets(layers, config.targets, trained)
        problems += missing + unknown_activation(config.activation)
        settings, missing = output_settings(layers, targets, config)
        problems += missing
    for name, keys in config.patterns.items():
        problems += [
            f"{name}: {key!r} matches none of the targets"
            for key in keys
            if not any(pattern_matches(key, path) for path in targets)
        ]
    refuse("inject: nothing was changed", problems)
    attach(layers, settings, trained)
    surgery.forget_compiled(layers.values())
    return model


def attach(
    layers: dict[str, Layer],
    settings: dict[str, Settings],
    trained: set[str],
) -> None:
    """Makes one adapted base of `layers`, or leaves them as they were."""
    base = Base(
        uid=uuid.uuid4().hex,
        sampled=is_sampled(layers.values()),
        hosts=tuple(settings),
        trained=tuple(path for path in layers if path in trained),
        outputs=base_outputs(layers),
    )
    fellows = weakref.WeakSet(layers.values())
    try:
        for path, layer in layers.items():
            join_base(layer, base, path, settings.get(path))
            mine = member_of(layer)
            mine.fellows = fellows
            if path in trained:
                mine.originals = {
                    name: ops.convert_to_numpy(variable).copy()
                    for name, variable in own_variables(layer).items()
                }
            else:
                mine.digests = layer_digests(layer, base.sampled)
    except BaseException:
        for layer in layers.values():
            if membership(layer) is not None:
                leave_base(layer)
        raise


def base_outputs(
    layers: dict[str, Layer],
) -> tuple[tuple[str, int], ...] | None:
    """Which layers make the outputs of the base whose root is `layers[""]`."""
    root = layers.get("")
    if root is None or not surgery.has_graph(root):
        return None
    path_of = {id(layer): path for path, layer in layers.items()}
    found = []
    for tensor in keras.tree.flatten(root.outputs):
        operation, index, _ = surgery.graph_source(tensor)
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
    found = members(model)
    problems = incomplete(model, found) + switched_off(found)
    problems += without_originals(found)
    refuse("eject: nothing was changed", problems)
    layers = everyone(found)
    for layer in layers:
        for name, value in (member_of(layer).originals or {}).items():
            own_variables(layer)[name].assign(value)
        leave_base(layer)
    surgery.forget_compiled(layers)
    return model
