"""A bank as a SavedModel that runs without Keras."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import keras

from keras_lora.bank.adapter import BankAdapter
from keras_lora.bank.inputs import with_ids
from keras_lora.bank.routing import Routed, only
from keras_lora.bank.rows import SlotRows
from keras_lora.errors import raise_if
from keras_lora.model import surgery
from keras_lora.model.surgery import Layer

TABLE = "adapters.json"
FEATURES = "features"


class OnlyRows(keras.layers.Layer):
    """Turns the rows of all adapters but one into NaN."""

    def __init__(self, slot: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.slot = slot

    def call(self, y: Any, ids: Any) -> Any:
        return only(ids == self.slot, y)


def export(
    path: Path,
    base: Layer,
    inputs: Any,
    hosts: dict[str, Any],
    adapters: list[BankAdapter],
) -> None:
    """Writes all adapters, whatever fits into the bank's own slots."""
    what = f"{path} was not exported"
    problems = []
    if keras.backend.backend() != "tensorflow":
        problems.append("a SavedModel is written on the TensorFlow backend")
    if path.exists():
        problems.append("it is there already")
    problems += [
        f"an adapter with a head is called {adapter.name!r}, as an output is"
        for adapter in adapters
        if adapter.head is not None and adapter.name.startswith(FEATURES)
    ]
    raise_if(what, problems)
    kept = {key: host.__dict__["_stacks"] for key, host in hosts.items()}
    try:
        for key, host in hosts.items():
            new = host.__dict__["_stacks"] = {}
            for stack_key, stack in kept[key].items():
                new[stack_key] = host.new_stack(stack.kind, len(adapters) + 1)
        rows = SlotRows(hosts)
        for slot, adapter in enumerate(adapters, 1):
            rows.write(slot, adapter.values)
        model = export_model(base, inputs, adapters)
        write(path, model, adapters)
    finally:
        for key, host in hosts.items():
            if host.__dict__["_stacks"] is not kept[key]:
                for variable in host.adapter_weights.values():
                    surgery.remove_weight(host, variable)
                host.__dict__["_stacks"] = kept[key]


def export_model(base: Layer, inputs: Any, adapters: list[BankAdapter]) -> Any:
    """The base with ids, and each head on top of its own rows."""
    ids = keras.Input((), dtype="int32", name="adapter_ids")
    features = Routed(base, lambda: len(adapters) + 1)(inputs, ids)
    outputs = named_features(features)
    flat = keras.tree.flatten(features)
    for slot, adapter in enumerate(adapters, 1):
        if adapter.head is None:
            continue
        assert adapter.info.head is not None
        y = flat[adapter.info.head["input"]]
        head = keras.Sequential(adapter.head.layers, name=f"head_{slot}")
        outputs[adapter.name] = OnlyRows(slot)(head(y), ids)
    return keras.Model(with_ids(inputs, ids), outputs, name="bank")


def named_features(features: Any) -> dict[str, Any]:
    """The base's outputs by name: `features`, or one for each of several."""
    if isinstance(features, dict):
        return {f"{FEATURES}_{key}": y for key, y in features.items()}
    flat = keras.tree.flatten(features)
    if len(flat) == 1:
        return {FEATURES: flat[0]}
    return {f"{FEATURES}_{number}": y for number, y in enumerate(flat)}


def write(path: Path, model: Any, adapters: list[BankAdapter]) -> None:
    """Exports beside the path, then renames."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise ValueError(f"{path} was not exported: {error}") from error
    try:
        model.export(part / "model", format="tf_saved_model", verbose=False)
        table = {a.name: slot for slot, a in enumerate(adapters, 1)}
        labels = {a.name: a.info.labels for a in adapters if a.info.labels}
        given = {"base": 0, "adapters": table, "labels": labels}
        text = json.dumps(given, indent=1)
        (part / "model" / TABLE).write_text(text)
        (part / "model").replace(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)
