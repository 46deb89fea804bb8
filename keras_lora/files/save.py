"""Saving what a task trained."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from keras import ops

from keras_lora.errors import raise_if
from keras_lora.files.format import not_finite, write_adapter, wrong_file
from keras_lora.files.head import Head, find_head, named_head
from keras_lora.files.labels import described_as, labels_misfit
from keras_lora.files.record import OUTSIDE
from keras_lora.model import graphs
from keras_lora.model.fingerprint import differences, digests_of
from keras_lora.model.paths import Layers, join, own_variables, structural_paths
from keras_lora.model.surgery import Layer
from keras_lora.rewrite.adapted import Adapted
from keras_lora.rewrite.member import is_host
from keras_lora.rewrite.membership import member_of, membership
from keras_lora.version import __version__


@dataclass(frozen=True)
class Outside:
    """What a model trains outside of its base.

    Attributes:
        head: The chain on the base's output, or None.
        layers: All other layers that train, by path in the model.
    """

    head: Head | None
    layers: Layers

    def variables(self) -> dict[str, Any]:
        """The variables of both, by their key in a file."""
        found = self.head.variables() if self.head else {}
        for path, layer in self.layers.items():
            for name, variable in own_variables(layer).items():
                found[join(OUTSIDE, path, name)] = variable
        return found


def find_outside(adapted: Adapted, head: str | None) -> Outside:
    """Looks for what a model has on top of its adapted base."""
    model = adapted.model
    found = named_head(model, head) if head else find_head(adapted)
    if found is not None and (found.config() is None or not found.layers):
        found = None
    of_head = {id(layer) for layer in found.layers} if found else set()
    trained = trained_outside(model).items()
    return Outside(found, {p: la for p, la in trained if id(la) not in of_head})


def trained_outside(model: Layer) -> Layers:
    """Layers that train and are not of the base, by path in the model."""
    return {
        path: layer
        for path, layer in structural_paths(model).items()
        if membership(layer) is None
        and any(v.trainable for v in own_variables(layer).values())
    }


def save_adapter(
    model: Any,
    path: str | os.PathLike[str],
    *,
    head: str | None = None,
    labels: Sequence[str] | None = None,
    about: str = "",
) -> None:
    """Saves everything a task trained to one small file.

    That is the adapter weights, layers of the base named in `train`, and all
    that trains outside of the base: a head, where it is one layer or a chain
    on the base's output, can be rebuilt from the file alone. Nothing of the
    base is stored but a fingerprint. Equal weights give equal bytes.

    Args:
        model: The adapted model, or the outer model with the head.
        path: File to write, by convention `*.safetensors`. It is written
            whole or not at all.
        head: Name or path of the layer that is the head, where the model does
            not show it, such as a subclassed one.
        labels: The names of its classes, in the order of the head's outputs;
            two for one output, that of a sigmoid. At least 2 different texts
            of at most 200 characters. The model does not remember them: give
            them each time.
        about: What the adapter is for, in at most 2,000 characters.

    Raises:
        ValueError: The model has no adapter, two of them, a part of one, one
            that is switched off, or values that are not finite; the base has
            changed since `inject`; there are not as many labels as outputs;
            the file cannot be written. Everything
            wrong is listed, and a file of that name is as it was.

    Example:

    ```python
    base = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    keras_lora.inject(base, keras_lora.LoRAConfig(rank=2))
    model = keras.Sequential([base, keras.layers.Dense(1)])
    keras_lora.save_adapter(model, "task.safetensors")
    ```
    """
    what = f"{path} was not saved"
    record, tensors = gathered(model, head, what)
    record |= described_as(labels, about)
    problems = wrong_file(record, tensors)
    if not problems and record["head"] is None:
        shape = graphs.output_shape(model, 0) or (None,)
        given = record.get("labels", ())
        problems = labels_misfit(given, shape[-1], "the model")
    raise_if(what, problems)
    write_adapter(path, tensors, record)


def gathered(
    model: Any, head: str | None, what: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The record and tensors of a file with everything a task trained."""
    adapted = Adapted(model)
    raise_if(what, adapted.problems + adapted.switched_off)
    base, found = adapted.base, adapted.layers
    frozen = {p: la for p, la in found.items() if p not in base.trained}
    digests = digests_of(frozen, base.sampled)
    expected = digests | {
        join(path, name): entry
        for path, layer in frozen.items()
        for name, entry in (member_of(layer).digests or {}).items()
    }
    problems = [
        f"the base has changed since `inject`: {problem}"
        for problem in differences(expected, digests)
    ]
    outside = find_outside(adapted, head)
    variables = {**trained_variables(found), **outside.variables()}
    tensors = {k: ops.convert_to_numpy(v.value) for k, v in variables.items()}
    settings = in_file_form(adapted.hosts, tensors)
    problems += not_finite(tensors)
    outputs = None if base.outputs is None else [[*o] for o in base.outputs]
    record = {
        "version": __version__,
        "layers": settings,
        "trained": list(base.trained),
        "head": outside.head.config() if outside.head else None,
        "outside": list(outside.layers),
        "base": {
            "sampled": base.sampled,
            "variables": digests,
            "outputs": outputs,
        },
    }
    raise_if(what, problems + wrong_file(record, tensors))
    return record, tensors


def in_file_form(
    hosts: dict[str, Any], tensors: dict[str, Any]
) -> dict[str, Any]:
    """Brings adapter weights into the form that any base can load, in place.

    Returns each host's settings in the file.
    """
    settings = {}
    for path, host in hosts.items():
        own = {
            name: tensors.pop(join(path, name)) for name in host.adapter_weights
        }
        settings[path], own = host.stored(host.adapter_settings, own)
        tensors |= {join(path, name): value for name, value in own.items()}
    return settings


def trained_variables(found: Layers) -> dict[str, Any]:
    """Adapter weights and variables of trained layers, by key in a file."""
    variables = {}
    for path, layer in found.items():
        own = {}
        if is_host(layer):
            own = layer.adapter_weights
        elif path in member_of(layer).base.trained:
            own = own_variables(layer)
        for name, variable in own.items():
            variables[join(path, name)] = variable
    return variables
