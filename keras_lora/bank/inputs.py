"""A base's inputs with the adapter ids beside them."""

from typing import Any

import keras

from keras_lora.errors import raise_if
from keras_lora.model import graphs
from keras_lora.model.surgery import Layer

IDS = "adapter_ids"


def symbolic_inputs(base: Layer) -> Any:
    """New symbolic inputs of the base's structure.

    A base without a graph is asked for the shapes it was built with.
    """
    known = graphs.build_inputs(base)
    if not known:
        raise ValueError(
            f"{base.name!r} does not tell its inputs: build it on a shape"
        )
    structure = known[0] if len(known) == 1 else known
    tensors = keras.tree.flatten(structure)
    problems = [
        f"input {tensor.name!r} has a fixed batch size of {tensor.shape[0]}"
        for tensor in tensors
        if graphs.has_graph(base) and tensor.shape[0] is not None
    ]
    if isinstance(structure, dict) and IDS in structure:
        problems.append(f"input {IDS!r} is what the bank calls its own")
    raise_if("AdapterBank was not made", problems)
    names = unique_names(structure)
    copies = [
        keras.Input(tensor.shape[1:], dtype=tensor.dtype, name=name)
        for tensor, name in zip(tensors, names, strict=True)
    ]
    return keras.tree.pack_sequence_as(structure, copies)


def unique_names(structure: Any) -> list[str]:
    """A name for each input: a dict's keys, else the tensors' own."""
    tensors = keras.tree.flatten(structure)
    if isinstance(structure, dict) and len(structure) == len(tensors):
        return [str(key) for key in sorted(structure)]
    names = [tensor.name.rpartition("/")[2] for tensor in tensors]
    if len(set(names)) < len(names) or IDS in names:
        return [f"input_{number}" for number in range(len(names))]
    return names


def with_ids(x: Any, ids: Any, like: Any = None) -> dict[str, Any]:
    """Inputs and ids as the dict that the bank's model takes.

    A dict is read by name, as Keras does, also where the base has a list.
    """
    like = x if like is None else like
    names = [tensor.name for tensor in keras.tree.flatten(like)]
    values = keras.tree.flatten(x)
    if isinstance(x, dict):
        wanted = like if isinstance(like, dict) else names
        missing = [key for key in wanted if key not in x]
        raise_if("Inputs", [f"no input {key!r}" for key in missing])
        found: Any = [x[key] for key in wanted]
        if isinstance(like, dict):
            found = dict(zip(wanted, found, strict=True))
        values = keras.tree.flatten(found)
    if len(values) != len(names):
        raise ValueError(
            f"The base takes {len(names)} inputs ({', '.join(names)}). "
            f"Received: {len(values)}"
        )
    return {**dict(zip(names, values, strict=True)), IDS: ids}
