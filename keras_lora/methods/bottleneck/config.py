"""What bottlenecks to attach, and where."""

from dataclasses import dataclass
from typing import Any

from keras_lora.errors import refuse
from keras_lora.methods.lora.config import Blocks, Targets
from keras_lora.settings import (
    positive_int,
    positive_number,
    share,
    wrong_choice,
    wrong_layers,
    wrong_targets,
)
from keras_lora.targets.placements import PLACEMENTS


@dataclass(frozen=True)
class AdapterConfig:
    """Bottleneck adapters on the outputs of chosen layers.

    Each target's output `y` becomes `y + up(activation(down(y)))`, where `up`
    starts at zero. A parallel one reads the target's first input `x` instead:
    `y + up(activation(down(x))) * scale`.

    Args:
        bottleneck: Int above 0, the inner width; None for the output's width
            divided by `reduction_factor`.
        reduction_factor: Number above 0; not used where `bottleneck` is given.
        activation: Name of a Keras activation.
        targets: Which layers, as in `LoRAConfig`. None: those of the
            placement, in blocks of KerasHub and around Keras's attention
            layers.
        dropout: Share of the adapter's input dropped in training, in [0, 1).
        layer_norm: Whether the adapter's input is layer-normalized first.
        layers: Which blocks, as in `LoRAConfig`.
        placement: `"pfeiffer"`: one a block, after the feed-forward part.
            `"houlsby"`: two a block, after the attention and after the
            feed-forward part. `"parallel"`: one a block, beside the attention
            (or beside each of `targets`).
        scale: Number above 0, what a parallel adapter is multiplied by.

    Raises:
        ValueError: A setting is out of its range; all of them are listed.

    Example:

    ```python
    config = keras_lora.AdapterConfig(bottleneck=24)
    ```

    References:
        - [Parameter-Efficient Transfer Learning for NLP](
          https://arxiv.org/abs/1902.00751)
        - [AdapterFusion](https://arxiv.org/abs/2005.00247)
        - [Towards a Unified View of Parameter-Efficient Transfer Learning](
          https://arxiv.org/abs/2110.04366)
    """

    bottleneck: int | None = None
    reduction_factor: float = 16
    activation: str = "relu"
    targets: Targets | None = None
    dropout: float = 0.0
    layer_norm: bool = False
    layers: Blocks | None = None
    placement: str = "pfeiffer"
    scale: float = 1.0

    def __post_init__(self) -> None:
        problems = []
        if self.bottleneck is not None:
            problems += positive_int("bottleneck", self.bottleneck)
        problems += positive_number("reduction_factor", self.reduction_factor)
        problems += share("dropout", self.dropout)
        problems += wrong_layers(self.layers)
        if self.targets is not None:
            problems += wrong_targets(self.targets)
        if not isinstance(self.activation, str):
            problems.append(
                "`activation` must be the name of a Keras activation. "
                f"Received: activation={self.activation!r}"
            )
        if not isinstance(self.layer_norm, bool):
            problems.append(
                "`layer_norm` must be True or False. "
                f"Received: layer_norm={self.layer_norm!r}"
            )
        problems += wrong_choice("placement", self.placement, PLACEMENTS)
        problems += positive_number("scale", self.scale)
        if not problems and self.scale != 1 and self.method != "parallel":
            problems.append(
                f'`scale` is for placement="parallel" alone. '
                f"Received: scale={self.scale!r}"
            )
        refuse("AdapterConfig", problems)

    @property
    def method(self) -> str:
        """The method of the layers, which follows from the placement."""
        return PLACEMENTS[self.placement].method

    def settings_for(self, path: str) -> dict[str, Any]:
        """What the layer at `path` gets, as it stands in a file."""
        parallel = self.method == "parallel"
        return {
            "method": self.method,
            "bottleneck": self.bottleneck,
            "reduction_factor": float(self.reduction_factor),
            "activation": self.activation,
            "dropout": float(self.dropout),
            "layer_norm": self.layer_norm,
            **({"scale": float(self.scale)} if parallel else {}),
        }
