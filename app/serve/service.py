"""The shared part of the demo: one base, one bank, answers from any thread."""

import secrets
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

import keras_lora
from app.learn.estimate import Speeds, costs
from app.serve.answers import Answer, Mixed
from app.serve.folder import OwnFolder
from app.serve.limits import LADDER_WIDTHS, MAX_BOTTLENECK, MAX_RANK
from app.serve.messages import message_of
from app.serve.room import Room
from app.serve.served import Served, Shipped, read_shipped
from app.texts.base import MAX_TOKENS, Tokenizer, load_base, pad
from app.texts.fetch import Progress
from keras_lora.errors import raise_if

LENGTHS = (16, 32, 64, MAX_TOKENS)
"""Tokens that a call's rows are padded to: few, so that few are traced."""

CAPACITY = 8
"""Adapters in slots at once; more may be loaded."""

SPEED_ROWS = 8
ROUNDS = 3
"""How often each way of answering a mixed batch is timed."""


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
        ladders: the weights of a ladder of each width.
        blocks: the layers that it stands beside.
        parameters: weights of the base.
        speeds: of training, as guessed from the start.
        bank_mb, copies_mb: what the shipped tasks take in memory: by this
            bank, and by a fine-tuned model each.
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
    ladders: dict[int, int]
    blocks: tuple[str, ...]
    parameters: int
    speeds: Speeds = Speeds.guessed(0.0, 0.0)
    bank_mb: float = 0.0
    copies_mb: float = 0.0
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
        ladders = {
            width: costs(_blank(base, folder, keras_lora.SideConfig(width)))
            for width in LADDER_WIDTHS
        }
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
            ladders={w: sum(found.values()) for w, found in ladders.items()},
            blocks=tuple(ladders[LADDER_WIDTHS[0]]),
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
        table = self.bank.summary()
        self.bank_mb = table.bank_bytes / 1e6
        self.copies_mb = table.copies_bytes / 1e6

    def check_classes(self, served: Served) -> None:
        """Tries a loaded adapter on one text, and unloads what is no use.

        Raises:
            ValueError: its head gives anything but a number for each label,
                or numbers of which nobody knows what they are.
        """
        problems = []
        try:
            outputs = self.bank.predict(pad([[1, 2]], LENGTHS[0]), served.name)
            shape = np.shape(outputs)[1:]
            if shape != (len(served.labels),) or not np.isfinite(outputs).all():
                problems.append(
                    f"its head gives {shape} per text, where "
                    f"{len(served.labels)} labels need one number each"
                )
            if served.gives_shares is None:
                problems.append(
                    "it cannot be told whether its head gives probabilities: "
                    "let it end in a softmax, a sigmoid or a plain dense layer"
                )
            raise_if(f"{served.title} was not loaded", problems)
        except BaseException:
            self.bank.unload(served.name)
            raise

    def _warm(self, tell: Progress) -> None:
        """Runs the shapes that calls have, so that no visitor waits for it."""
        shapes = ((1, 16), (1, 32), (3, 32), (SPEED_ROWS, 64))

        def seconds(rows: int, length: int) -> float:
            start = time.perf_counter()
            self.bank.predict(pad([[1] * length] * rows, length))
            return time.perf_counter() - start

        taken = []
        for number, shape in enumerate(shapes):
            tell("Tracing the forward pass", number / len(shapes))
            taken.append(seconds(*shape))
        forward = seconds(SPEED_ROWS, 64) / (64 * SPEED_ROWS)
        self.speeds = Speeds.guessed(forward, max(taken))
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

    def answer_all(
        self, tasks: Sequence[Served], text: str
    ) -> tuple[list[np.ndarray], float]:
        """One text by several adapters, in one pass of the base.

        Returns:
            The probabilities of each, and milliseconds.
        """
        start = time.perf_counter()
        inputs, _ = self.inputs([text])
        rows = {k: np.repeat(v, len(tasks), 0) for k, v in inputs.items()}
        outputs = self.bank.predict(rows, [served.name for served in tasks])
        found = [
            served.probabilities(output)
            for served, output in zip(tasks, outputs, strict=True)
        ]
        return found, 1e3 * (time.perf_counter() - start)

    def answer_mixed(self, rows: Sequence[tuple[str, Served]]) -> Mixed:
        """Rows with an adapter each: in one pass, then adapter by adapter.

        Both ways are run once before they are timed by turns, as what is
        asked for the first time is traced.
        """
        texts = [text for text, _ in rows]
        names = [served.name for _, served in rows]
        own = {
            name: [row for row, owner in enumerate(names) if owner == name]
            for name in names
        }

        def one_pass() -> list[Any]:
            inputs, _ = self.inputs(texts)
            return list(self.bank.predict(inputs, adapter=names))

        def one_by_one() -> list[Any]:
            inputs, _ = self.inputs(texts)
            found: list[Any] = [None] * len(rows)
            for name, mine in own.items():
                # As long as in the mixed batch: the padding is the same.
                part = {key: value[mine] for key, value in inputs.items()}
                outputs = self.bank.predict(part, adapter=name)
                for row, output in zip(mine, outputs, strict=True):
                    found[row] = output
            return found

        together, apart = one_pass(), one_by_one()
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(ROUNDS):
            for way, taken in zip((one_pass, one_by_one), times, strict=True):
                start = time.perf_counter()
                way()
                taken.append(1e3 * (time.perf_counter() - start))

        def shares(outputs: list[Any]) -> list[np.ndarray]:
            return [
                served.probabilities(output)
                for output, (_, served) in zip(outputs, rows, strict=True)
            ]

        return Mixed(
            shares(together),
            shares(apart),
            statistics.median(times[0]),
            statistics.median(times[1]),
            max(
                float(np.abs(a - b).max())
                for a, b in zip(together, apart, strict=True)
            ),
            len(own),
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
