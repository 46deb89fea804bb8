"""What ladder to set beside a base, and beside which blocks."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from keras_lora.errors import raise_if, shorten
from keras_lora.methods.method import Method, Plan, SettingsOf
from keras_lora.methods.stack import Settings
from keras_lora.model.classes import plain_class
from keras_lora.model.paths import Layers
from keras_lora.model.surgery import Layer
from keras_lora.model.widths import output_axes
from keras_lora.settings import (
    is_int,
    positive_int,
    share,
    wrong_layers,
    wrong_targets,
)
from keras_lora.targets import Blocks, Targets, chain_of_blocks, wrong_chain

WIDEST = 65_536
CAUSAL = ("use_causal_mask", "decoder_padding_mask", "cache")
"""What arguments are called, or end in, of blocks in which no position sees
those after it."""


@dataclass(frozen=True)
class SideConfig:
    """A small network beside the base, which reads what each block gives.

    It climbs from block to block: at each one it takes the block's output in,
    times a learned share, and passes on through a small transformer block of
    its own. What it ends with is added to the last block's output, by a
    projection that starts at zero. Nothing of it goes back into the base: no
    gradient passes through the base, and the base's pass is the same for all
    tasks. So `split` cuts the whole base off, and `AdapterBank.predict_all`
    answers many tasks from one pass.

    Args:
        width: Int above 0, of the small network; a multiple of `heads`.
        heads: Int above 0, of its attention.
        dropout: Share of what its stages read and add that is dropped in
            training, in [0, 1).
        targets: The blocks, as a list of names or a regular expression in
            the order of the model; each reads the one before it. None: the
            model's repeated blocks.
        layers: Which of the repeated blocks, as in `LoRAConfig`; for encoders
            whose blocks all read one another.

    Raises:
        ValueError: A setting is out of its range; all of them are listed.

    Example:

    ```python
    config = keras_lora.SideConfig(width=48)
    ```

    References:
        - [LST: Ladder Side-Tuning for Parameter and Memory Efficient Transfer
          Learning](https://arxiv.org/abs/2206.06522)
    """

    width: int = 48
    heads: int = 4
    dropout: float = 0.1
    targets: Targets | None = None
    layers: Blocks | None = None

    method = "side"

    def __post_init__(self) -> None:
        problems = wrong_sizes(vars(self)) + wrong_layers(self.layers)
        if self.targets is not None:
            problems += wrong_targets(self.targets)
        raise_if("SideConfig", problems)

    def plan(
        self, method: Method, layers: dict[str, Layer], trained: set[str]
    ) -> Plan:
        """A stage on each block, the last one with the way back."""
        blocks, problems = chain_of_blocks(layers, self.targets, self.layers)
        settings: dict[str, Settings] = {}
        for stage, path in enumerate(blocks):
            layer = layers[path]
            problems += wrong_block(path, layer)
            widths = method.widths(layer)
            problems += [
                f"{path}: {width}"
                for width in widths.values()
                if isinstance(width, str)
            ]
            if path in trained:
                problems.append(f"{path}: it is in `train`")
            settings[path] = {
                "method": self.method,
                "width": int(self.width),
                "heads": int(self.heads),
                "dropout": float(self.dropout),
                "stage": stage,
                "stages": len(blocks),
                **widths,
            }
        return Plan(settings, problems)


def wrong_block(path: str, layer: Layer) -> list[str]:
    """Says why no ladder reads a block."""
    host = plain_class(layer)
    known = inspect.signature(host.call).parameters
    causal = [name for name in known if name.endswith(CAUSAL)]
    if causal:
        return [
            f"{path}: {host.__name__} is causal (its call takes "
            f"`{causal[0]}`): a ladder is for encoders, where all positions "
            "see each other"
        ]
    if output_axes(layer) <= {3}:
        return []
    return [f"{path}: its output is not (batch, length, features)"]


def wrong_sizes(settings: Mapping[str, Any]) -> list[str]:
    """Says what of a ladder's sizes is missing or out of range."""
    width: Any = settings.get("width")
    heads: Any = settings.get("heads")
    problems = positive_int("width", width, WIDEST)
    problems += positive_int("heads", heads, WIDEST)
    if not problems and width % heads:
        problems.append(
            "`width` must be a multiple of `heads`. "
            f"Received: width={width}, heads={heads}"
        )
    return problems + share("dropout", settings.get("dropout"))


def wrong_stage(settings: Settings) -> list[str]:
    """Says what of a stage's settings in a file is missing or out of range."""
    stage: Any = settings.get("stage")
    stages: Any = settings.get("stages")
    problems = wrong_sizes(settings)
    problems += positive_int("features", settings.get("features"))
    problems += positive_int("stages", stages)
    if not is_int(stage) or not is_int(stages) or not 0 <= stage < stages:
        problems.append(
            f"`stage` must be an int below `stages`. Received: stage={stage!r}"
        )
    return problems


def wrong_ladder(settings: SettingsOf, layers: Layers) -> list[str]:
    """Says why the stages in a file are not one whole ladder on a base."""
    blocks = sorted(settings, key=lambda path: settings[path]["stage"])
    stages = [settings[path]["stage"] for path in blocks]
    sizes = {
        name: sorted({settings[path][name] for path in blocks})
        for name in ("width", "heads", "stages")
    }
    problems = [
        f"the stages of the ladder differ in `{name}`: "
        + shorten(map(str, found))
        for name, found in sizes.items()
        if len(found) > 1
    ]
    if stages != list(range(len(blocks))) or sizes["stages"] != [len(blocks)]:
        problems.append(
            "the ladder is not whole: there are stages "
            f"{shorten(map(str, stages))} of "
            + shorten(map(str, sizes["stages"]))
        )
    for path in blocks:
        problems += wrong_block(path, layers[path])
    return problems + wrong_chain(layers, blocks)
