"""Checks of the JSON record in an adapter file: types, ranges, owners."""

import math
from typing import Any

HEAD = "@head"
OUTSIDE = "@outside"
METHODS = ("lora", "bottleneck")


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, str) for v in value)


def wrong_record(record: dict[str, Any]) -> list[str]:
    """Says what of a record is missing or of a wrong type."""
    problems = []
    if not isinstance(record.get("version"), str):
        problems.append("record: no `version`")
    for name in ("trained", "outside"):
        if not _is_names(record.get(name)):
            problems.append(f"record: `{name}` is no list of names")
    layers = record.get("layers")
    if not isinstance(layers, dict):
        problems.append("record: no `layers`")
    else:
        for path, settings in layers.items():
            problems += _wrong_settings(path, settings)
    problems += _wrong_base(record.get("base"))
    head = record.get("head", ...)
    if head is not None and not (
        isinstance(head, dict)
        and isinstance(head.get("input"), int)
        and isinstance(head.get("layers"), list)
        and all(
            isinstance(layer, dict)
            and isinstance(layer.get("class"), str)
            and isinstance(layer.get("config"), dict)
            and isinstance(layer.get("input_shape"), list | None)
            for layer in head["layers"]
        )
    ):
        problems.append("record: `head` is malformed")
    return problems


def _wrong_settings(path: str, settings: Any) -> list[str]:
    """Says what of one layer's settings is missing or out of range."""
    where = f"record, layer {path!r}"
    if not isinstance(settings, dict) or settings.get("method") not in METHODS:
        return [f"{where}: unknown method"]
    number = (int, float)
    needed: dict[str, Any] = {"dropout": number}
    if settings["method"] == "lora":
        needed |= {"rank": int, "alpha": number}
    else:
        needed |= {
            "reduction_factor": number,
            "activation": str,
            "layer_norm": bool,
            "width": int,
        }
    problems = []
    for name, kind in needed.items():
        value = settings.get(name)
        right = isinstance(value, kind) and (
            kind is bool or not isinstance(value, bool)
        )
        least = 0 if name == "dropout" else 1e-12
        if right and isinstance(value, number) and not isinstance(value, bool):
            right = math.isfinite(value) and value >= least
        if not right:
            problems.append(f"{where}: {name}={value!r}")
    if settings["method"] == "bottleneck":
        size = settings.get("bottleneck", ...)
        if size is not None and not (isinstance(size, int) and size > 0):
            problems.append(f"{where}: bottleneck={size!r}")
    return problems


def _wrong_base(base: Any) -> list[str]:
    """Says what of a fingerprint is missing or of a wrong type."""
    if not isinstance(base, dict) or not isinstance(base.get("sampled"), bool):
        return ["record: no `base`"]
    problems = []
    variables = base.get("variables")
    if not isinstance(variables, dict) or not all(
        isinstance(entry, list)
        and len(entry) == 3
        and isinstance(entry[0], str)
        and isinstance(entry[1], list)
        and all(isinstance(n, int) for n in entry[1])
        and isinstance(entry[2], str)
        for entry in variables.values()
    ):
        problems.append("record: the base's `variables` are malformed")
    outputs = base.get("outputs")
    if outputs is not None and not (
        isinstance(outputs, list)
        and all(
            isinstance(o, list)
            and len(o) == 2
            and isinstance(o[0], str)
            and isinstance(o[1], int)
            for o in outputs
        )
    ):
        problems.append("record: the base's `outputs` are malformed")
    return problems


def wrong_tensors(
    record: dict[str, Any], tensors: dict[str, tuple[str, tuple[int, ...]]]
) -> list[str]:
    """Says which tensors belong to nothing that the record names."""
    owners = {*record["layers"], *record["trained"]}
    problems = []
    for key in tensors:
        owner = key.rpartition("/")[0]
        if key.startswith((HEAD + "/", OUTSIDE + "/")):
            named = record["head"] is not None or record["outside"]
        else:
            named = owner in owners
        if not named:
            problems.append(f"tensor {key!r} belongs to no layer of the record")
    return problems
