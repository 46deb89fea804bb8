"""Loading a PEFT folder into a model."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from keras_lora.errors import raise_if
from keras_lora.files.load import check_alike, put
from keras_lora.model.checks import not_freezable
from keras_lora.model.paths import Layers, structural_paths
from keras_lora.model.surgery import every_layer
from keras_lora.peft.as_file import as_file
from keras_lora.peft.folder import PeftInfo, read_folder
from keras_lora.peft.hub import find_backbone
from keras_lora.peft.names import Named, wrong_names
from keras_lora.peft.origin import Origin, origin_of
from keras_lora.peft.outside import place_outside
from keras_lora.peft.translate import translate
from keras_lora.rewrite.adapted import Adapted
from keras_lora.rewrite.checks import not_a_base, served


def load_peft(
    model: Any,
    folder: str | os.PathLike[str],
    *,
    head: bool = True,
    names: Mapping[str, str | Sequence[str]] | None = None,
) -> Any:
    """Loads a Hugging Face PEFT folder (LoRA) into a model, in place.

    Which layer each of PEFT's modules is, is read off KerasHub's own converter
    of Hugging Face checkpoints, so any family that KerasHub converts works.
    The model is then as `load_adapter` leaves it.

    Args:
        model: A KerasHub backbone, or a model (such as a KerasHub task) in
            which one is a layer; with `names` any model. Its weights must be
            those that the adapter was trained on: a folder has no fingerprint
            to tell.
        folder: A folder with `adapter_config.json` and
            `adapter_model.safetensors`.
        head: Whether to load what was trained outside of the base, such as a
            classifier, into the Dense layer of the model that it fits. False
            for the bare base.
        names: For layers that no converter names: a dict from regular
            expressions that match PEFT's module names, or their ends, to
            paths of layers in the model, in which `\\1` stands for a group.
            A list of paths: layers that share a module's rows in this order.

    Returns:
        The same model.

    Raises:
        ValueError: The folder cannot be read, has a setting that is not
            supported, or does not fit the base, or its head has nowhere to
            go. Everything wrong is listed, and the model is as it was.

    Example:

    ```python
    import json
    import os

    from safetensors.numpy import save_file

    base = keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(4, name="top")]
    )
    os.mkdir("folder")
    module = "base_model.model.model.proj"
    tensors = {
        f"{module}.lora_A.weight": np.ones((2, 8), "float32"),
        f"{module}.lora_B.weight": np.ones((4, 2), "float32"),
    }
    save_file(tensors, "folder/adapter_model.safetensors")
    with open("folder/adapter_config.json", "w") as file:
        json.dump({"peft_type": "LORA", "r": 2, "lora_alpha": 4}, file)
    keras_lora.load_peft(base, "folder", names={"proj": "top"})
    ```

    References:
        - [LoRA: Low-Rank Adaptation of Large Language Models](
          https://arxiv.org/abs/2106.09685)
    """
    what = f"{folder} was not loaded"
    theirs = read_folder(folder)
    found = Adapted(model)
    raise_if(what, wrong_names(names) + served(found.walk))
    layers = found.layers if found else base_layers(model)
    translated = translate(theirs, known_origin(what, theirs, layers, names))
    if not found:
        translated.problems += not_a_base(layers)
        translated.problems += not_freezable(layers)
    if not head:
        translated.outside = {}
    raise_if(what, translated.problems)
    tensors, outside = translated.read()
    raise_if(what, translated.problems)
    placed, problems = place_outside(outside, model, layers, Named(names))
    tensors |= placed
    info, wrong = as_file(translated, tensors)
    raise_if(what, problems + wrong)
    if found:
        check_alike(found, info, what)
    return put(found, layers, info, tensors, head, what)


def base_layers(model: Any) -> Layers:
    """The layers of the backbone in a model, or else of the model itself."""
    backbone = find_backbone(every_layer(model))
    return structural_paths(model if backbone is None else backbone)


def known_origin(
    what: str,
    theirs: PeftInfo,
    layers: Layers,
    names: Mapping[str, Any] | None = None,
) -> Origin:
    """Where a base's layers come from, or an error with all that is wrong."""
    try:
        return origin_of(layers, names)
    except ValueError as error:
        raise_if(what, [*theirs.problems, str(error)])
        raise
