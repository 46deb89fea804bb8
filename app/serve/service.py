"""The shared part of the demo: one base, one bank, answers from any thread."""

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

import keras_lora
from app.learn.estimate import costs
from app.serve.answers import Answer, Mixed
from app.serve.folder import OwnFolder
from app.serve.limits import MAX_BOTTLENECK, MAX_RANK
from app.serve.messages import message_of
from app.serve.room import Room
from app.serve.served import Served, Shipped, read_shipped
from app.texts.base import MAX_TOKENS, Tokenizer, load_base, pad
from app.texts.fetch import Progress

LENGTHS = (16, 32, 64, MAX_TOKENS)
"""Tokens that a call's rows are padded to: few, so that few are traced."""

CAPACITY = 8
"""Adapters in slots at once; more may be loaded."""

SPEED_ROWS = 8


@dataclass(frozen=True)
class Source:
    """Where the base, its tokenizer and the shipped adapters come from."""

    load_base: Callable[[Progress | None], keras.Model]
    make_tokenizer: Callable[[Progress | None], Any]
    adapters: Path


REAL = Source(
    load_base=lambda progress: load_base(progress=progress),
    make_tokenizer=lambda progress: Tokenizer(progress=progress),
    adapters=Path(__file__).parents[1] / "adapters",
)


@dataclass
class Service:
    """One base behind one bank; every session asks the same object.

    Nothing of it belongs to a session: each call names its own adapter.

    Args:
        source: where everything came from; copies of the base come from it.
        base, tokenizer, bank: what answers.
        shipped: the tasks that came with the demo.
        own_folder: for visitors' files.
        low_rank, bottlenecks: the layers that an adapter of each kind may sit
            on, with the weights that rank 1, or width 1, takes there.
        parameters: weights of the base.
        seconds_per_token: of the forward pass, measured at the start.
        room: what visitors' adapters may take together.
    """

    source: Source
    base: keras.Model
    tokenizer: Any
    bank: keras_lora.AdapterBank
    shipped: Shipped
    own_folder: OwnFolder
    low_rank: dict[str, int]
    bottlenecks: dict[str, int]
    parameters: int
    seconds_per_token: float = 0.0
    room: Room = field(default_factory=Room)

    @property
    def folder(self) -> Path:
        """Where visitors' files lie."""
        return self.own_folder.path

    @classmethod
    def start(
        cls, source: Source, progress: Progress | None = None
    ) -> "Service":
        """Fetches what is missing, loads the base and warms the bank.

        Args:
            source: where everything comes from.
            progress: told what is being done and the share of it done.

        Raises:
            FetchError: the base is not in the cache and cannot be fetched.
        """
        tell = progress or (lambda title, share: None)
        base = source.load_base(progress)
        tokenizer = source.make_tokenizer(progress)
        own_folder = OwnFolder()
        folder = own_folder.path
        tell("Opening the bank", 0.0)
        paths, parameters = keras_lora.find_targets(base), base.count_params()
        unit = costs(_blank(base, folder, keras_lora.LoRAConfig(rank=1)))
        narrow = _blank(base, folder, keras_lora.AdapterConfig(bottleneck=1))
        wide = keras_lora.AdapterConfig(bottleneck=MAX_BOTTLENECK)
        room = _blank(base, folder, wide)
        bank = keras_lora.AdapterBank(
            base, CAPACITY, rank=MAX_RANK, targets="all-linear"
        )
        # Loaded and unloaded again it leaves room for visitors' bottlenecks,
        # so that no upload makes the bank trace its functions anew.
        bank.load("room", room.path)
        bank.unload("room")
        for file in folder.glob("blank-*"):
            file.unlink()
        service = cls(
            source=source,
            base=base,
            tokenizer=tokenizer,
            bank=bank,
            shipped=Shipped((), {}),
            own_folder=own_folder,
            low_rank={path: unit[path] for path in paths},
            bottlenecks=costs(narrow),
            parameters=parameters,
        )
        service._load_shipped()
        service._warm(tell)
        return service

    def _load_shipped(self) -> None:
        shipped = read_shipped(self.source.adapters)
        good, problems = [], dict(shipped.problems)
        for task in shipped.tasks:
            try:
                self.bank.load(task.name, task.file)
                self.check_classes(task)
            except ValueError as error:
                problems[task.name] = message_of(error)
                continue
            probe = task.probe
            if probe and probe.kernel.shape[0] != self.base.output_shape[-1]:
                task = replace(task, probe=None)
            good.append(task)
        self.shipped = Shipped(tuple(good), problems)

    def check_classes(self, served: Served) -> None:
        """Tries a loaded adapter on one text, and unloads what is no use.

        Raises:
            ValueError: its head gives anything but a number a label.
        """
        try:
            outputs = self.bank.predict(pad([[1, 2]], LENGTHS[0]), served.name)
            shape = np.shape(outputs)[1:]
            if shape != (len(served.labels),) or not np.isfinite(outputs).all():
                raise ValueError(
                    f"its head gives {shape} per text, where "
                    f"{len(served.labels)} labels need one number each"
                )
        except BaseException:
            self.bank.unload(served.name)
            raise

    def _warm(self, tell: Progress) -> None:
        """Runs the shapes that calls have, so that no visitor waits for it."""
        shapes = ((1, 16), (1, 32), (3, 32), (SPEED_ROWS, 64))
        for number, (rows, length) in enumerate(shapes):
            tell("Tracing the forward pass", number / len(shapes))
            self.bank.predict(pad([[1, 2]] * rows, length))
        start = time.perf_counter()
        self.bank.predict(pad([[1] * 64] * SPEED_ROWS, 64))
        seconds = time.perf_counter() - start
        self.seconds_per_token = seconds / (64 * SPEED_ROWS)
        rows = [(text, t) for t in self.shipped.tasks for text in t.examples]
        if rows:
            self.answer_mixed(rows)
        tell("Ready", 1.0)

    def inputs(self, texts: Sequence[str]) -> tuple[dict[str, Any], list[int]]:
        """The base's inputs at one of the fixed lengths; tokens of each."""
        rows = self.tokenizer.encode(texts)
        lengths = [len(row) for row in rows]
        longest = max(lengths, default=1)
        fixed = next((n for n in LENGTHS if n >= longest), None)
        return pad(rows, fixed), lengths

    def answer(self, served: Served, text: str) -> Answer:
        """One text through one adapter."""
        before = self.bank.brought_in
        start = time.perf_counter()
        self.bank.adapter_ids([served.name])
        switched = time.perf_counter()
        inputs, lengths = self.inputs([text])
        outputs = self.bank.predict(inputs, adapter=served.name)
        shares = served.probabilities(outputs[0])
        return Answer(
            shares,
            1e3 * (switched - start),
            1e3 * (time.perf_counter() - switched),
            self.bank.brought_in > before,
            lengths[0],
        )

    def answer_frozen(self, served: Served, text: str) -> np.ndarray | None:
        """The same text by the base alone and its probe, if there is one."""
        if served.probe is None:
            return None
        inputs, _ = self.inputs([text])
        return served.probe.probabilities(self.bank.predict(inputs))[0]

    def answer_mixed(self, rows: Sequence[tuple[str, Served]]) -> Mixed:
        """Rows with an adapter each: in one pass, then adapter by adapter."""
        texts = [text for text, _ in rows]
        start = time.perf_counter()
        inputs, _ = self.inputs(texts)
        together = self.bank.predict(
            inputs, adapter=[served.name for _, served in rows]
        )
        middle = time.perf_counter()
        apart: list[Any] = [None] * len(rows)
        owners = [served.name for _, served in rows]
        for name in dict.fromkeys(owners):
            own = [row for row, owner in enumerate(owners) if owner == name]
            # As long as in the mixed batch, so that the padding is the same.
            part = {key: value[own] for key, value in inputs.items()}
            outputs = self.bank.predict(part, adapter=name)
            for row, output in zip(own, outputs, strict=True):
                apart[row] = output
        end = time.perf_counter()
        pairs = list(zip(together, apart, strict=True))
        heads = [served for _, served in rows]
        return Mixed(
            [
                s.probabilities(a)
                for s, (a, _) in zip(heads, pairs, strict=True)
            ],
            [
                s.probabilities(b)
                for s, (_, b) in zip(heads, pairs, strict=True)
            ],
            1e3 * (middle - start),
            1e3 * (end - middle),
            max(float(np.abs(a - b).max()) for a, b in pairs),
            len(set(owners)),
        )


def _blank(base: keras.Model, folder: Path, config: Any) -> Any:
    """The header of a fresh adapter's file; the base is as it was after."""
    file = folder / f"blank-{secrets.token_hex(4)}.safetensors"
    keras_lora.inject(base, config)
    try:
        keras_lora.save_adapter(base, file)
    finally:
        keras_lora.eject(base)
    return keras_lora.inspect_adapter(file)
