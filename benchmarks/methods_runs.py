"""The runs of `benchmarks.methods`, by method."""

from typing import Any

Runs = dict[str, Any]
PROBE = "frozen probe"
ORDER = (
    PROBE,
    "full fine-tuning",
    "lora",
    "rslora",
    "svd",
    "svd-minor",
    "eva",
    "dora",
    "lora+",
    "ia3",
    "pfeiffer",
    "houlsby",
    "parallel",
    "lora, last 2 blocks",
    "lora on int8",
    "lora on int4",
)


def of_method(
    runs: Runs, plan: str, task: str, name: str
) -> tuple[float, list[Any]] | None:
    """A method's best rate in validation, and its runs at that rate."""
    found: dict[float, dict[int, Any]] = {}
    lead = f"{plan}/{task}/{name}/"
    for run, result in runs.items():
        if run.startswith(lead):
            rate, seed = run.removeprefix(lead).split("/")
            found.setdefault(float(rate), {})[int(seed)] = result
    first = {rate: seeds[0] for rate, seeds in found.items() if 0 in seeds}
    if not first:
        return None
    rate = max(sorted(first), key=lambda rate: first[rate]["validation"])
    return rate, [found[rate][seed] for seed in sorted(found[rate])]
