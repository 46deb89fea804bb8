"""PEFT adapters that torch trained, loaded here; and ours, loaded there.

Torch, transformers and PEFT are installed into an environment of their own,
where a tiny random checkpoint of each family is made and PEFT adapters of
several kinds are trained on it for a few steps. Here each is loaded into the
same checkpoint as KerasHub reads it, and the outputs are compared. Then
adapters are trained here and saved by `save_peft`; PEFT loads them in torch,
and the outputs are compared again.

    python -m benchmarks.peft_exchange [--work FOLDER] [--json FILE]
"""

import argparse
import importlib.metadata
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import keras
import keras_hub
import numpy as np
from keras import ops

import keras_lora
from benchmarks.train_step import machine

PACKAGES = ("torch==2.13.0", "transformers==5.24.0", "peft==0.21.2")
TORCH = Path(__file__).with_name("peft_torch.py")
OURS = {
    "LoRA": keras_lora.LoRAConfig(rank=3, alpha=6),
    "DoRA": keras_lora.DoRAConfig(rank=3, alpha=6),
}
STEPS = 5


def in_torch(work: Path, command: str) -> None:
    """Runs the other side in its environment, which is made if need be."""
    python = work / "environment/bin/python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", python.parents[1]])
        install = [python, "-m", "pip", "install", "-q", *PACKAGES]
        subprocess.run(install, check=True)
    subprocess.run([python, TORCH, command, work / "exchange"], check=True)


def inputs_of(backbone: Any, stored: dict[str, Any]) -> dict[str, Any]:
    """The inputs that torch was given, as a backbone takes them."""
    if "pixel_values" in stored:
        return np.transpose(stored["pixel_values"], (0, 2, 3, 1))
    tokens = stored["input_ids"]
    decoded = stored.get("decoder_input_ids", tokens)
    found = {
        "token_ids": tokens,
        "padding_mask": np.ones_like(tokens),
        "segment_ids": np.zeros_like(tokens),
        "encoder_token_ids": tokens,
        "encoder_padding_mask": np.ones_like(tokens),
        "decoder_token_ids": decoded,
        "decoder_padding_mask": np.ones_like(decoded),
    }
    return {name: found[name] for name in backbone.input}


def hidden(outputs: Any) -> Any:
    """The sequence among a backbone's outputs."""
    if not isinstance(outputs, dict):
        return outputs
    names = ("decoder_sequence_output", "sequence_output")
    return next(outputs[name] for name in names if name in outputs)


def run(backbone: Any, stored: dict[str, Any], like: np.ndarray) -> np.ndarray:
    """Logits, or the last hidden state where torch gave that."""
    y = hidden(backbone(inputs_of(backbone, stored)))
    if y.shape[-1] != like.shape[-1]:
        y = backbone.token_embedding(y, reverse=True)
    return ops.convert_to_numpy(y)


def off(some: np.ndarray, others: np.ndarray) -> float:
    """The largest difference."""
    return float(np.abs(some - others).max())


def loaded(folder: Path, base: Any, stored: dict[str, Any]) -> dict[str, Any]:
    """Loads one of PEFT's adapters and compares it with what torch says."""
    with np.load(folder / "expected.npz") as file:
        want = file["adapted"]
    before = run(base, stored, want)
    try:
        keras_lora.load_peft(base, folder, head=False)
    except ValueError as error:
        return {"refused": "\n".join(str(error).split("\n")[1:4])}
    got = run(base, stored, want)
    keras_lora.eject(base)
    return {"off": off(got, want), "moved": off(want, before)}


def sent(folder: Path, base: Any, stored: dict[str, Any], config: Any) -> Any:
    """Trains an adapter here and saves it for PEFT; gives what it computes."""
    keras.utils.set_random_seed(0)
    keras_lora.inject(base, config)
    model = keras.Model(base.input, hidden(base(base.input)))
    model.compile(keras.optimizers.Adam(2e-2), "mse")
    x = inputs_of(base, stored)
    y = np.random.default_rng(1).normal(size=model(x).shape)
    model.fit(x, y, epochs=STEPS, verbose=0)
    prefix = (folder.parent / "prefix").read_text()
    keras_lora.save_peft(base, folder, prefix=prefix, task_type=None)
    got = run(base, stored, stored["base"])
    keras_lora.eject(base)
    return got


def family_of(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """All of one family: what comes in, and what goes out."""
    with np.load(folder / "base.npz") as file:
        stored = dict(file)
    try:
        base = keras_hub.models.Backbone.from_preset(str(folder / "checkpoint"))
        base(inputs_of(base, stored))
    except Exception as error:
        return {"not read by KerasHub": f"{type(error).__name__}: {error}"}, {}
    found: dict[str, Any] = {
        "class": type(base).__name__,
        "base": off(run(base, stored, stored["base"]), stored["base"]),
        "in": {},
    }
    for path in sorted(folder.glob("*/expected.npz")):
        name = path.parent.name.replace("_", " ")
        found["in"][name] = loaded(path.parent, base, stored)
    not_made = json.loads((folder / "not_made.json").read_text())
    found["in"] |= {name: {"not made": why} for name, why in not_made.items()}
    computed = {
        name: sent(folder / f"ours_{name}", base, stored, config)
        for name, config in OURS.items()
    }
    return found, computed


def compare(folder: Path, ours: dict[str, np.ndarray]) -> dict[str, Any]:
    """What torch computes with our folders against what Keras did."""
    with np.load(folder / "base.npz") as file:
        base = file["base"]
    read = json.loads((folder.parent / "read.json").read_text())
    found = {}
    for name, got in ours.items():
        said = read.get(f"{folder.name}/ours_{name}", "not read")
        if said != "read":
            found[name] = {"refused": said}
            continue
        with np.load(folder / f"ours_{name}/torch.npz") as file:
            theirs = file["adapted"]
        found[name] = {"off": off(theirs, got), "moved": off(theirs, base)}
    return found


def measure(work: Path) -> dict[str, Any]:
    """Both directions, all families."""
    in_torch(work, "make")
    exchange = work / "exchange"
    families = sorted(path.parent for path in exchange.glob("*/base.npz"))
    result, computed = {}, {}
    for folder in families:
        result[folder.name], computed[folder.name] = family_of(folder)
        print(folder.name, json.dumps(result[folder.name]), flush=True)
    in_torch(work, "read")
    for folder in families:
        result[folder.name]["out"] = compare(folder, computed[folder.name])
        print(folder.name, json.dumps(result[folder.name]["out"]), flush=True)
    versions = json.loads((exchange / "versions.json").read_text())
    for name in ("keras", "keras-hub", keras.backend.backend()):
        versions[name] = importlib.metadata.version(name)
    return {
        "machine": machine(),
        "backend": keras.backend.backend(),
        "versions": versions,
        "settings": {"steps": STEPS},
        "families": result,
    }


def main() -> None:
    """Runs the benchmark as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--work", type=Path, help="a folder to keep the environment in"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        result = measure(options.work or Path(temporary))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
