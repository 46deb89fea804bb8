"""Generating with a bank, against the base and against a loop over adapters.

A GPT-2 of random weights says 64 tokens after prompts of 16, for 8 rows: the
bare base by KerasHub's own `generate`; from the bank the base, one adapter,
and 8 adapters, a row each; the same 8 one after the other on one bank. The
sides take turns in each round. With and without XLA, then with a quantized
base. Memory is the peak of a process of its own for the bank with its
adapters, and for as many merged models.

    python -m benchmarks.generation [--rounds 7] [--json FILE]
"""

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import keras_lora
from benchmarks.train_step import describe, spread

ROWS, PROMPT, NEW = 8, 16, 64
SIDES = ("base", "bank", "bank, int8", "bank, int4", "8 merged models")
"""What memory is measured of."""


def language_model(options: argparse.Namespace, xla: bool = False) -> Any:
    """A GPT-2 with weights that make its tokens differ."""
    import keras_hub

    backbone = keras_hub.models.GPT2Backbone(
        vocabulary_size=options.vocabulary,
        num_layers=options.layers,
        num_heads=6,
        hidden_dim=options.width,
        intermediate_dim=4 * options.width,
        max_sequence_length=PROMPT + NEW,
        dropout=0.0,
    )
    task = keras_hub.models.GPT2CausalLM(backbone, preprocessor=None)
    rng = np.random.default_rng(1)
    for variable in task.weights:
        if len(variable.shape) > 1:
            values = 0.08 * rng.normal(size=variable.shape)
            variable.assign(values.astype("float32"))
    task.compile(sampler="greedy", jit_compile=xla)
    return task


def make_files(
    task: Any, folder: Path, options: argparse.Namespace
) -> dict[str, Path]:
    """An adapter a row, on all linear layers, with random values."""
    rng, paths = np.random.default_rng(2), {}
    for number in range(ROWS):
        config = keras_lora.LoRAConfig(options.rank, targets="all-linear")
        keras_lora.inject(task, config)
        for variable in task.trainable_weights:
            variable.assign(0.05 * rng.normal(size=variable.shape))
        paths[f"a{number}"] = folder / f"{number}.safetensors"
        keras_lora.save_adapter(task, paths[f"a{number}"])
        keras_lora.eject(task)
    return paths


def prompts(rows: int = ROWS) -> dict[str, np.ndarray]:
    """Random prompts, padded to the length that is generated."""
    ids = np.zeros((rows, PROMPT + NEW), "int32")
    rng = np.random.default_rng(3)
    ids[:, :PROMPT] = rng.integers(3, 1000, (rows, PROMPT))
    return {"token_ids": ids, "padding_mask": ids > 0}


def seconds(act: Callable[[], Any]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def measure(
    options: argparse.Namespace, xla: bool, quantized: str | None = None
) -> dict[str, Any]:
    """Seconds of each side, in rounds, and its ratio to the base's."""
    task = language_model(options, xla)
    if quantized:
        task.quantize(quantized)
    with tempfile.TemporaryDirectory() as folder:
        paths = make_files(task, Path(folder), options)
        task.compile(sampler="greedy", jit_compile=xla)
        asked = prompts()
        names = list(paths)
        bare = task.make_generate_function()
        bare(asked)  # compiled before the bank is there, so without slots
        bank = keras_lora.AdapterBank(task, ROWS)
        for name, path in paths.items():
            bank.load(name, path)

        def by_name(adapter: Any) -> Any:
            return bank.generate(asked, adapter, stop_token_ids=None)

        def loop() -> None:
            for row, name in enumerate(names):
                one = {
                    key: value[row : row + 1] for key, value in asked.items()
                }
                bank.generate(one, name, stop_token_ids=None)

        sides: dict[str, Callable[[], Any]] = {
            "base": lambda: np.asarray(bare(asked)["token_ids"]),
            "bank, all rows the base": lambda: by_name(None),
            "one adapter": lambda: by_name("a0"),
            "8 adapters, mixed": lambda: by_name(names),
            "8 adapters, one by one": loop,
        }
        first = {name: seconds(act) for name, act in sides.items()}
        times: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(options.rounds):
            for name, act in sides.items():
                times[name].append(seconds(act))
        bank.detach()
    base = np.array(times["base"])
    return {
        name: {
            "first_s": first[name],
            "seconds": spread(times[name]),
            "tokens_a_second": ROWS * NEW / float(np.median(times[name])),
            "over_base": spread((np.array(times[name]) / base).tolist()),
            "over_mixed": spread(
                (
                    np.array(times[name]) / np.array(times["8 adapters, mixed"])
                ).tolist()
            ),
        }
        for name in sides
    }


def peak_memory(options: argparse.Namespace, side: str, queue: Any) -> None:
    """Megabytes of a process that answers from 8 adapters."""
    start = peak()
    task = language_model(options)
    models = [task]
    if side.startswith("bank"):
        quantized = side.partition(", ")[2]
        if quantized:
            task.quantize(quantized)
        with tempfile.TemporaryDirectory() as folder:
            paths = make_files(task, Path(folder), options)
            task.compile(sampler="greedy", jit_compile=False)
            bank = keras_lora.AdapterBank(task, ROWS)
            for name, path in paths.items():
                bank.load(name, path)
        bank.generate(prompts(), list(paths), stop_token_ids=None)
    elif side == "8 merged models":
        # What is in the kernels makes no difference to memory.
        models += [language_model(options) for _ in range(ROWS - 1)]
        for model in models:
            model.generate(prompts(1), stop_token_ids=None)
    else:
        task.generate(prompts(), stop_token_ids=None)
    weights = sum(
        np.asarray(variable).nbytes
        for model in models
        for variable in model.variables
    )
    queue.put(
        {
            "weights_mb": weights / 1e6,
            "peak_mb": peak(),
            "grown_mb": peak() - start,
        }
    )


def peak() -> float:
    """The most megabytes this process has taken so far."""
    # `getrusage` would count what the parent had when it started this one.
    status = Path("/proc/self/status").read_text()
    kilobytes = next(
        line.split()[1]
        for line in status.splitlines()
        if line.startswith("VmHWM")
    )
    return int(kilobytes) * 1024 / 1e6


def peaks(options: argparse.Namespace) -> dict[str, Any]:
    """Memory of each side, in processes of their own."""
    options = argparse.Namespace(
        **{**vars(options), "layers": 12, "width": 768}
    )
    context = multiprocessing.get_context("spawn")
    found = {}
    for side in SIDES:
        queue = context.Queue()
        process = context.Process(
            target=peak_memory, args=(options, side, queue)
        )
        process.start()
        found[side] = queue.get(timeout=900)
        process.join()
    return found


def main() -> None:
    """Measures, prints, and adds the result to a file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--vocabulary", type=int, default=8000)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--json", type=Path, help="also write the result here")
    options = parser.parse_args()
    options.batch, options.tokens = ROWS, NEW
    result: dict[str, Any] = {
        **describe(options),
        "speed": {
            "without XLA": measure(options, xla=False),
            "with XLA": measure(options, xla=True),
            "int8, without XLA": measure(options, False, "int8"),
            "int4, without XLA": measure(options, False, "int4"),
        },
        "memory": peaks(options),
    }
    print(json.dumps(result, indent=1))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
