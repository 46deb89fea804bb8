"""What bottlenecks to attach, and where."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from keras_lora.errors import raise_if
from keras_lora.methods.method import Method, Plan
from keras_lora.model.paths import join
from keras_lora.model.surgery import Layer
from keras_lora.settings import (
    positive_int,
    positive_number,
    share,
    wrong_choice,
    wrong_layers,
    wrong_targets,
)
from keras_lora.targets import (
    PLACEMENTS,
    Blocks,
    Targets,
    in_blocks,
    output_targets,
)


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
        placement: `"pfeiffer"`: one in each block, after the feed-forward
            part. `"houlsby"`: two in each, after the attention and after the
            feed-forward part. `"parallel"`: one in each, beside the attention
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
        problems = wrong_bottleneck(vars(self)) + wrong_layers(self.layers)
        if self.targets is not None:
            problems += wrong_targets(self.targets)
        problems += wrong_choice("placement", self.placement, PLACEMENTS)
        problems += positive_number("scale", self.scale)
        if not problems and self.scale != 1 and self.method != "parallel":
            problems.append(
                f'`scale` is for placement="parallel" alone. '
                f"Received: scale={self.scale!r}"
            )
        raise_if("AdapterConfig", problems)

    @property
    def method(self) -> str:
        """The method of the layers, which follows from the placement."""
        return PLACEMENTS[self.placement].method

    def settings_for(self, path: str) -> dict[str, Any]:
        """What the layer at `path` gets, as it stands in a file."""
        parallel = self.method == "parallel"
        return {
            "method": self.method,
            "bottleneck": self.bottleneck and int(self.bottleneck),
            "reduction_factor": float(self.reduction_factor),
            "activation": self.activation,
            "dropout": float(self.dropout),
            "layer_norm": self.layer_norm,
            **({"scale": float(self.scale)} if parallel else {}),
        }

    def plan(
        self, method: Method, layers: dict[str, Layer], trained: set[str]
    ) -> Plan:
        """Bottlenecks on outputs, whose widths have to be known."""
        targets, problems = output_targets(
            layers, self.targets, self.placement, trained
        )
        targets, outside = in_blocks(layers, targets, self.layers)
        problems += outside + method.misfit(self.settings_for(""))
        settings = {}
        for path in targets:
            widths = method.widths(layers[path])
            problems += [
                f"{join(path)}: {width}"
                for width in widths.values()
                if isinstance(width, str)
            ]
            settings[path] = {**self.settings_for(path), **widths}
        return Plan(settings, problems)


def wrong_bottleneck(settings: Mapping[str, Any]) -> list[str]:
    """Says what of a bottleneck's own settings is missing or out of range."""
    get = settings.get
    problems = []
    if get("bottleneck", ...) is not None:
        problems += positive_int("bottleneck", get("bottleneck"))
    factor = get("reduction_factor")
    problems += positive_number("reduction_factor", factor)
    problems += share("dropout", get("dropout"))
    if not isinstance(get("activation"), str):
        problems.append(
            "`activation` must be the name of a Keras activation. "
            f"Received: activation={get('activation')!r}"
        )
    if not isinstance(get("layer_norm"), bool):
        problems.append(
            "`layer_norm` must be True or False. "
            f"Received: layer_norm={get('layer_norm')!r}"
        )
    return problems


def wrong_output(settings: Mapping[str, Any]) -> list[str]:
    """The same of one that knows its host's output."""
    width = positive_int("width", settings.get("width"))
    return wrong_bottleneck(settings) + width


def wrong_parallel(settings: Mapping[str, Any]) -> list[str]:
    """The same of one that reads its host's input."""
    problems = positive_int("width_in", settings.get("width_in"))
    problems += positive_number("scale", settings.get("scale"))
    return wrong_output(settings) + problems
