"""What a file says for people: names of its classes, and a short text."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from keras_lora.errors import shorten
from keras_lora.files.container import Tensors
from keras_lora.files.head_config import wrong_head
from keras_lora.files.head_cost import counted
from keras_lora.files.layer_cost import layer_cost
from keras_lora.files.sizes import Unclear

MOST_LABELS = 100_000
LONGEST_LABEL = 200
LONGEST_ABOUT = 2_000


def described_as(labels: Any, about: Any) -> dict[str, Any]:
    """Labels and a text as they stand in a record: nothing where not given."""
    given = {}
    if labels is not None:
        is_array = hasattr(labels, "tolist")
        given["labels"] = labels.tolist() if is_array else as_list(labels)
    if about != "":
        given["about"] = about
    return given


def as_list(labels: Any) -> Any:
    """A tuple or list as a list; what is neither stays, to be refused."""
    return list(labels) if isinstance(labels, list | tuple) else labels


def wrong_description(record: dict[str, Any], tensors: Tensors) -> list[str]:
    """Says what of a record's labels and text is not in order.

    The rest of the record is, and has tensors of these dtypes and shapes.
    """
    problems = []
    if "labels" in record:
        problems += wrong_labels(record["labels"])
        head = record["head"]
        if not problems and head is not None:
            shapes = {key: shape for key, (_, shape) in tensors.items()}
            outputs = None if wrong_head(head, shapes) else head_outputs(head)
            problems += labels_misfit(record["labels"], outputs, "the head")
    about = record.get("about", "")
    if not isinstance(about, str) or len(about) > LONGEST_ABOUT:
        problems.append(
            f"`about` must be a text of at most {LONGEST_ABOUT:,} characters"
        )
    elif not about.replace("\n", "").isprintable():
        problems.append("`about` must be printable")
    return problems


def wrong_labels(labels: Any) -> list[str]:
    """Says what keeps labels from being names of classes."""
    wanted = f"`labels` must be a list of 2 to {MOST_LABELS:,} different texts"
    if not isinstance(labels, list) or not all(
        isinstance(label, str) for label in labels
    ):
        return [f"{wanted}. Received: {str(labels)[:100]}"]
    if not 2 <= len(labels) <= MOST_LABELS:
        return [f"{wanted}. Received: {len(labels):,}"]
    bad = [
        ascii(label[:LONGEST_LABEL])
        for label in labels
        if not (0 < len(label.strip()) <= len(label) <= LONGEST_LABEL)
        or not label.isprintable()
    ]
    if bad:
        return [
            f"`labels` must be printable, of 1 to {LONGEST_LABEL} characters, "
            f"and not blank. Received: {shorten(bad, 8)}"
        ]
    if len(set(labels)) < len(labels):
        twice = [la for la, n in Counter(labels).items() if n > 1]
        return [f"{wanted}. Twice: {shorten(twice, 8)}"]
    return []


def labels_misfit(
    labels: Sequence[str], outputs: int | None, what: str
) -> list[str]:
    """Says whether so many labels do not fit so many numbers a row.

    One number is the share of the second of two labels. None is a number that
    is not known.
    """
    count = len(labels)
    if not count or outputs is None or outputs == count:
        return []
    if (outputs, count) == (1, 2):
        return []
    return [f"{count} labels do not fit {what}, which gives {outputs} a row"]


def head_outputs(head: dict[str, Any]) -> int | None:
    """How many numbers a stored head gives, as far as its configs tell."""
    shape = None
    for entry in head["layers"]:
        try:
            if entry.get("input_shape") is not None:
                shape = counted(entry["input_shape"])
            if shape is not None:
                shape = layer_cost(entry["class"], entry["config"], shape).shape
        except Unclear:
            return None
    return None if shape is None else shape[-1]
