"""What a training step and rewriting a model cost, as Markdown."""

from typing import Any

from benchmarks import plots
from benchmarks.markdown import ASSETS, spread, table, where


def train_step(result: dict[str, Any]) -> str:
    """One training step against the other ways to train."""
    rows = [
        [
            side,
            f"{row['milliseconds'][1]:,.0f}",
            spread(row["keras_lora_over_it"]) if side != "keras_lora" else "",
            f"{row['trainable']:,}",
            f"{row['peak_mb']:,.0f}" if row["peak_mb"] else "",
        ]
        for side, row in result["sides"].items()
    ]
    head = ["side", "ms", "keras_lora's over it", "trainable", "peak MB"]
    return "\n\n".join(
        [
            "## A training step",
            "An encoder with random weights. keras_lora has adapters on all "
            "linear layers, and `enable_lora` adapts the same layers with "
            "frozen biases. The *activation floor* runs forward and takes the "
            "gradients of all activations and of no kernel: no method that "
            "adapts early layers can be faster. *Frozen and head* trains the "
            "head alone. *Trainable* are the weights that train.",
            where(result, "python -m benchmarks.train_step"),
            table(head, rows),
        ]
    )


def scaling(result: dict[str, Any]) -> str:
    """The step against rank, depth and width."""
    rows = []
    for name, points in result["sweeps"].items():
        for value, sides in points.items():
            full = sides["full fine-tuning"]
            peaks = [side["peak_mb"] for side in sides.values()]
            rows.append(
                [
                    f"{name} {value}",
                    f"{sides['keras_lora']['milliseconds'][1]:,.0f}",
                    f"{full['milliseconds'][1]:,.0f}",
                    spread(full["keras_lora_over_it"]),
                    f"{sides['keras_lora']['trainable']:,}",
                    " / ".join(f"{p:,.0f}" for p in peaks) if peaks[0] else "",
                ]
            )
    pictures = plots.scaling(result, ASSETS / "scaling.svg")
    head = ["varied", "keras_lora ms", "full ms", "ratio"]
    head += ["trainable", "peak MB: ours / full"]
    return "\n\n".join(
        [
            "## A step against rank, depth and width",
            "One setting is varied while the others stay as the next line "
            "says. *Ratio* is keras_lora's time over full fine-tuning's.",
            where(result, "python -m benchmarks.scaling"),
            " ".join(
                "![Milliseconds of a step of keras_lora and of full "
                f"fine-tuning, by {path.stem.removeprefix('scaling-')}]"
                f"(assets/{path.name})"
                for path in pictures
            ),
            table(head, rows),
        ]
    )


def rewriting(result: dict[str, Any]) -> str:
    """Inject and eject beside many fitted models."""
    rows = [
        [
            what,
            f"{spread(result['alone_ms'][name][:3], 1)}",
            f"{spread(result['beside_ms'][name][:3], 1)}",
            f"{result['beside_ms'][name][3]:.1f}",
        ]
        for name, what in (
            ("inject", "`inject`"),
            ("eject", "`eject`"),
            ("scan", "a pass over all objects"),
        )
    ]
    beside = f"beside {result['settings']['models']} fitted models, ms"
    return "\n\n".join(
        [
            "## Rewriting a model",
            "A model of two layers, alone in its process and beside others "
            "that were fitted. Compiled models that hold its layers find out "
            "by themselves. To look for them among all objects of the process "
            "would take what the last row says.",
            where(result, "python -m benchmarks.rewriting"),
            table(["what", "alone, ms", beside, "slowest of those"], rows),
        ]
    )
