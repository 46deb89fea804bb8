"""Checks of the JSON record in an adapter file: types, ranges, owners."""

from typing import Any

from keras_lora.methods import METHODS
from keras_lora.model.paths import owner as owner_of

HEAD = "@head"
OUTSIDE = "@outside"
FLOATS = ("F16", "BF16", "F32", "F64")
INTEGERS = ("BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64")
MOST_HEAD_LAYERS = 100
DEEPEST = 12
LARGEST = 3e38
SMALLEST = 1e-38
HEAD_LAYER = {"class": str, "config": dict, "input_shape": list | None}


def fits(value: Any, pattern: Any) -> bool:
    """Whether JSON is of the shape that a pattern shows.

    `[int]` is a list of any length, `(str, int)` a list of just these two,
    `{"input": int}` a dict with at least this key.
    """
    if isinstance(pattern, dict):
        return isinstance(value, dict) and all(
            fits(value.get(key), pattern[key]) for key in pattern
        )
    if isinstance(pattern, tuple):
        same_length = isinstance(value, list) and len(value) == len(pattern)
        return same_length and all(map(fits, value, pattern))
    if isinstance(pattern, list):
        return isinstance(value, list) and all(
            fits(item, pattern[0]) for item in value
        )
    if isinstance(value, bool):  # which Python takes for an int
        return pattern is bool
    return isinstance(value, pattern)


def wrong_record(record: dict[str, Any]) -> list[str]:
    """Says what of a record is missing or of a wrong type."""
    problems = []
    if not fits(record.get("version"), str):
        problems.append("record: no `version`")
    for name in ("trained", "outside"):
        if not fits(record.get(name), [str]):
            problems.append(f"record: `{name}` is no list of names")
    layers = record.get("layers")
    if not isinstance(layers, dict):
        problems.append("record: no `layers`")
    else:
        for path, settings in layers.items():
            problems += _wrong_settings(path, settings)
            problems += _out_of_float32(path, settings)
    problems += _wrong_base(record.get("base"))
    head = record.get("head", ...)
    if head is not None and not (
        fits(head, {"input": int, "layers": [HEAD_LAYER]})
        and head["input"] >= 0
        and len(head["layers"]) <= MOST_HEAD_LAYERS
    ):
        problems.append("record: `head` is malformed")
    return problems + _wrong_modules(record.get("modules", {}))


def _wrong_modules(modules: Any) -> list[str]:
    """Says whether it is malformed from which modules layers came."""
    if isinstance(modules, dict) and fits(
        list(modules.values()), [(str, int, int, bool)]
    ):
        return []
    return ["record: `modules` are malformed"]


def _wrong_settings(path: str, settings: Any) -> list[str]:
    """Says what of one layer's settings is missing or out of range."""
    where = f"record, layer {path!r}"
    method = settings.get("method") if isinstance(settings, dict) else None
    known = METHODS.get(method) if isinstance(method, str) else None
    if known is None or known.check is None:
        return [f"{where}: unknown method"]
    return [f"{where}: {problem}" for problem in known.check(settings)]


def _out_of_float32(path: str, settings: Any) -> list[str]:
    """Says which numbers a model that computes in float32 cannot hold.

    A scale that is infinite there makes NaN even of an adapter that is off.
    """
    if not isinstance(settings, dict):
        return []
    return [
        f"record, layer {path!r}: {name} is out of range"
        for name, value in settings.items()
        if isinstance(value, int | float)
        and value
        and not SMALLEST <= abs(value) <= LARGEST
    ]


def too_deep(value: Any) -> bool:
    """Whether lists and dicts are nested deeper than any record's."""
    level = [value]
    for _ in range(DEEPEST):
        nested = [item for item in level if isinstance(item, dict | list)]
        level = []
        for item in nested:
            level += item.values() if isinstance(item, dict) else item
    return bool(level)


def _wrong_base(base: Any) -> list[str]:
    """Says what of a fingerprint is missing or of a wrong type."""
    if not fits(base, {"sampled": bool}):
        return ["record: no `base`"]
    problems = []
    variables = base.get("variables")
    if not fits(variables, dict) or not fits(
        list(variables.values()), [(str, [int], str)]
    ):
        problems.append("record: the base's `variables` are malformed")
    outputs = base.get("outputs")
    if outputs is not None and not fits(outputs, [(str, int)]):
        problems.append("record: the base's `outputs` are malformed")
    return problems


def wrong_tensors(
    record: dict[str, Any], tensors: dict[str, tuple[str, tuple[int, ...]]]
) -> list[str]:
    """Says which tensors belong to nothing in the record, or are no numbers.

    Adapter weights are float32 under every policy; a trained layer may be of
    another dtype, and may have a counter.
    """
    owners = {*record["layers"], *record["trained"]}
    problems = []
    for key, (dtype, _) in tensors.items():
        owner = owner_of(key)
        adapts = owner in record["layers"] and owner not in record["trained"]
        allowed = ("F32",) if adapts else FLOATS + INTEGERS
        if dtype not in allowed:
            problems.append(f"tensor {key!r} has dtype {dtype}")
        if key.startswith(HEAD + "/"):
            named = record["head"] is not None
        elif key.startswith(OUTSIDE + "/"):
            named = bool(record["outside"])
        else:
            named = owner in owners
        if not named:
            problems.append(f"tensor {key!r} belongs to no layer of the record")
    return problems
