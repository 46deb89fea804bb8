"""Where bottleneck adapters go by name: after or beside which layers."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from keras_lora.model.paths import Layers
from keras_lora.model.widths import LINEAR, output_width

FEED_FORWARD_OUTPUT = (
    r"(?:.*/)?(?:feedforward_output_dense|ffw_linear(?:_\d+)?)"
)
"""What KerasHub calls the last layer of a block's feed-forward part."""
ATTENTION_OUTPUT = r"(?:.*/)?attention_output"
"""What Keras and KerasHub call the last layer of an attention."""


def attention_outputs(layers: Layers) -> list[str]:
    """The last layer of each attention."""
    return [path for path in layers if re.fullmatch(ATTENTION_OUTPUT, path)]


def attentions(layers: Layers) -> list[str]:
    """Each attention as a whole."""
    return [path.rpartition("/")[0] for path in attention_outputs(layers)]


def feed_forward_outputs(layers: Layers) -> list[str]:
    """The last layer of each block's feed-forward part.

    Where KerasHub's names do not tell, it is looked for behind each
    attention, among the layers that stand beside it.
    """
    named = [path for path in layers if re.fullmatch(FEED_FORWARD_OUTPUT, path)]
    if named:
        return named
    found = []
    whole = [path for path in attentions(layers) if path]
    for number, attention in enumerate(whole):
        parent = attention.rpartition("/")[0]
        later = list(layers)[list(layers).index(attention) :]
        if number + 1 < len(whole) and whole[number + 1] in later:
            later = later[: later.index(whole[number + 1])]
        width = output_width(layers[f"{attention}/attention_output"])
        found += last_linear(layers, below(parent, later, attention), width)
    return found


def below(parent: str, paths: list[str], attention: str) -> list[str]:
    """The paths below `parent` that are not below `attention`."""
    lead = f"{parent}/" if parent else ""
    return [
        path
        for path in paths
        if path.startswith(lead) and not f"{path}/".startswith(f"{attention}/")
    ]


def last_linear(
    layers: Layers, paths: list[str], width: int | str
) -> list[str]:
    """The linear layer that brings what another one widened back to a width.

    A single one of that width counts too; there may be none.
    """
    linear = [path for path in paths if isinstance(layers[path], LINEAR)]
    fits = [path for path in linear if output_width(layers[path]) == width]
    behind = [path for path in fits if path != linear[0]]
    return (behind or fits)[:1]


def both_outputs(layers: Layers) -> list[str]:
    """Both places of each block, in the order of the model."""
    found = {*attention_outputs(layers), *feed_forward_outputs(layers)}
    return [path for path in layers if path in found]


@dataclass(frozen=True)
class Placement:
    """A named way to place bottleneck adapters.

    Attributes:
        method: Of the layers.
        find: Gives the targets among a model's layers.
    """

    method: str
    find: Callable[[Layers], list[str]]


PLACEMENTS = {
    "pfeiffer": Placement("bottleneck", feed_forward_outputs),
    "houlsby": Placement("bottleneck", both_outputs),
    "parallel": Placement("parallel", attentions),
}
