"""Names for what crosses a cut, the same in every process."""

from keras_lora.model.compiled import HOST
from keras_lora.model.paths import Layers, snake_case
from keras_lora.split.choose import Cut
from keras_lora.split.graph import Call, Tensor, maker


def names_of(calls: list[Call], paths: Layers) -> list[str]:
    """A name for each call that is the same in every process.

    A layer's, an input's too, is its structural path.
    """
    path_of = {id(layer): path for path, layer in paths.items()}
    taken: set[str] = set()
    names = []
    for call in calls:
        operation = call.operation
        of = operation.__dict__.get(HOST, operation)
        stem = path_of.get(id(of), "")
        stem = (stem or snake_case(type(operation).__name__)).replace("/", ".")
        name, number = stem, 0
        while name in taken:
            number += 1
            name = f"{stem}_{number}"
        taken.add(name)
        names.append(name)
    return names


def feature_names(
    tensors: list[Tensor], cut: Cut, paths: Layers
) -> dict[str, Tensor]:
    """Names for what crosses, which a cache on a disk goes by."""
    calls = list({id(maker(t)): maker(t) for t in tensors}.values())
    names = dict(zip(map(id, calls), names_of(calls, paths), strict=True))
    again = {id(c.operation) for c in cut.calls if id(c) in cut.later}
    found: dict[str, Tensor] = {}
    for tensor in tensors:
        call = maker(tensor)
        name = names[id(call)]
        if id(call.operation) in again:  # an input may not be called so
            name += ".output"
        if len(call.outputs) > 1:
            name += f".{[id(t) for t in call.outputs].index(id(tensor))}"
        found[name] = tensor
    return found
