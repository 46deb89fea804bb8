"""PEFT folders for tests: those that torch wrote, and small ones of any kind.

`tests/data/peft` has tiny random checkpoints, adapters for them and what torch
computes with both; its README says how they were made.
"""

import json
import shutil
from pathlib import Path

import keras
import numpy as np
from keras import ops
from safetensors.numpy import load_file, save_file

from tests.models import hub

DATA = Path(__file__).parents[1] / "data/peft"
REFUSED = ("refuse_lora_bias", "refuse_ia3")
ADAPTERS = sorted(
    str(config.parent.relative_to(DATA))
    for config in DATA.glob("*/*/adapter_config.json")
)
LOADED = [name for name in ADAPTERS if not name.endswith(REFUSED)]


def backbone(family):
    """A family's backbone, with the weights of its checkpoint."""
    folder = DATA / family / "checkpoint"
    return hub().models.Backbone.from_preset(str(folder))


class Expected:
    """What torch computes with an adapter, and the same of a backbone."""

    def __init__(self, name):
        self.family = name.split("/")[0]
        with np.load(DATA / name / "expected.npz") as stored:
            self.values = dict(stored)
        self.kind = "hidden" if "hidden" in self.values else "logits"
        self.shown = self.values["padding_mask"].astype(bool)

    def inputs(self):
        names = ("token_ids", "padding_mask")
        inputs = {name: self.values[name] for name in names}
        if self.family == "bert":
            inputs["segment_ids"] = np.zeros_like(inputs["token_ids"])
        return inputs

    def of(self, base):
        """What a backbone gives for it, where there is no padding."""
        outputs = base(self.inputs())
        if isinstance(outputs, dict):
            outputs = outputs["sequence_output"]
        if self.kind == "logits":
            outputs = base.token_embedding(outputs, reverse=True)
        return ops.convert_to_numpy(outputs)[self.shown]

    @property
    def adapted(self):
        return self.values[self.kind][self.shown]

    @property
    def plain(self):
        return self.values[f"base_{self.kind}"][self.shown]


def small_base():
    """A base of two layers that no converter knows."""
    return keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(8, activation="tanh", name="first"),
            keras.layers.Dense(4, name="second"),
        ]
    )


NAMES = {r"layers\.0\.up": "first", r"layers\.0\.down": "second"}
SIZES = {"layers.0.up": (6, 8), "layers.0.down": (8, 4)}


def factors(module, size_in, size_out, rank=2, seed=0, dtype="float32"):
    """A module's two factors, by their keys."""
    generator = np.random.default_rng(seed)
    prefix = f"base_model.model.{module}"
    a = generator.normal(size=(rank, size_in)).astype(dtype)
    b = generator.normal(size=(size_out, rank)).astype(dtype)
    return {
        f"{prefix}.lora_A.weight": a,
        f"{prefix}.lora_B.weight": b,
    }


def write_folder(path, tensors=None, **config):
    """Writes a PEFT folder for `small_base`, other than it says."""
    path.mkdir(exist_ok=True)
    if tensors is None:
        tensors = {}
        for module, sizes in SIZES.items():
            tensors |= factors(module, *sizes)
    config = {
        "peft_type": "LORA",
        "r": 2,
        "lora_alpha": 4,
        "target_modules": ["up", "down"],
        **config,
    }
    (path / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, path / "adapter_model.safetensors")
    return path


def fixture_copy(tmp_path, name, change):
    """A copy of a fixture whose config and tensors are changed."""
    folder = tmp_path / "copy"
    shutil.copytree(DATA / name, folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    change(config, tensors)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def as_dora(longer=1.2):
    """Changes a Llama's folder into DoRA, with columns longer than the base's.

    For `fixture_copy`.
    """

    def change(config, tensors):
        config["use_dora"] = True
        checkpoint = load_file(DATA / "llama/checkpoint/model.safetensors")
        for key in [k for k in tensors if k.endswith("lora_A.weight")]:
            module = key.removesuffix(".lora_A.weight")
            name = module.removeprefix("base_model.model.") + ".weight"
            length = np.linalg.norm(checkpoint[name], axis=1) * longer
            tensors[f"{module}.lora_magnitude_vector"] = length

    return change
