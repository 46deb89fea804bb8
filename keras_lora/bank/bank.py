"""One base, many adapters: each call, or each row of a call, names its own."""

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_lora.bank.adapter import BankAdapter, ServedBase, read_adapter
from keras_lora.bank.batches import (
    Adapters,
    Batch,
    Names,
    names_of_rows,
    padded,
    rows_of,
    spread,
)
from keras_lora.bank.export import export
from keras_lora.bank.folder import read_folder, write_folder
from keras_lora.bank.inputs import symbolic_inputs, with_ids
from keras_lora.bank.memory import LARGEST_RANK, MOST_SLOTS
from keras_lora.bank.probe import probe
from keras_lora.bank.raw import (
    has_preprocessor,
    one_row_like,
    prepared,
    row_count,
)
from keras_lora.bank.routing import Routed
from keras_lora.bank.slots import Slots, declared_kinds
from keras_lora.bank.summary import BankSummary, summarize
from keras_lora.errors import raise_if
from keras_lora.model import surgery
from keras_lora.model.compiled import HOLD, forget_compiled
from keras_lora.model.fingerprint import by_path, is_sampled, layer_digests
from keras_lora.model.paths import structural_paths
from keras_lora.model.surgery import Layer
from keras_lora.rewrite.checks import not_a_base
from keras_lora.settings import positive_int, wrong_targets
from keras_lora.targets import Targets

LOG = logging.getLogger("keras_lora")
SERVED = "it is served by an AdapterBank: `detach` the bank first"
DECLARED = ("capacity", "rank", "targets")
"""Settings that a saved bank is made with again."""
REPLACED = "`active` is gone: write `with bank.using(name): ...`"
PLAIN_CALLS = (
    "predict",
    "predict_on_batch",
    "evaluate",
    "test_on_batch",
    "generate",
)
"""What a caller may do with the base itself; the bank waits meanwhile."""


class AdapterBank:
    """Serves many adapters on one base, which stays in memory once.

    Adapters of any rank, target, method and head live side by side. The
    adapters in use sit stacked in slots; each row of a batch reads its own
    slot, in one forward pass. All methods may be called from several threads.

    Args:
        base: The built base the adapters were trained on. Until `detach` it
            is served and does not train: an outer model that is fitted trains
            its other layers only.
        capacity: Int from 1 to 100,000: how many adapters sit in slots at
            once. More may be loaded; one is brought in when it is asked for,
            and the least recently used one makes room.
        rank: Largest rank to expect. Within it and `targets` nothing is
            traced again; growing past them traces once. None: as the loaded
            files need.
        targets: Layers to expect adapters on, as in `LoRAConfig`. None: as
            the loaded files need.

    Raises:
        ValueError: The base is not built, is adapted or served already, or
            mixes the rows of a batch (the layer that does is named); a
            setting is out of its range, or its slots would take more than
            the machine's memory. The base is as it was.

    Example:

    ```python
    base = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    for name in ("a", "b"):
        keras_lora.inject(base, keras_lora.LoRAConfig(rank=2))
        keras_lora.save_adapter(base, f"{name}.safetensors")
        keras_lora.eject(base)
    bank = keras_lora.AdapterBank(base)
    bank.load("a", "a.safetensors")
    bank.load("b", "b.safetensors")
    x = np.ones((3, 8), "float32")
    rows = bank.predict(x, adapter=["a", None, "b"])
    ```

    References:
        - [S-LoRA: Serving Thousands of Concurrent LoRA Adapters](
          https://arxiv.org/abs/2311.03285)
        - [Punica: Multi-Tenant LoRA Serving](
          https://arxiv.org/abs/2310.18547)
    """

    def __init__(
        self,
        base: Layer,
        capacity: int = 8,
        *,
        rank: int | None = None,
        targets: Targets | None = None,
    ) -> None:
        layers = structural_paths(base)
        problems = not_a_base(layers)
        problems += positive_int("capacity", capacity, MOST_SLOTS)
        if rank is not None:
            problems += positive_int("rank", rank, LARGEST_RANK)
        if targets is not None:
            problems += wrong_targets(targets)
        raise_if("AdapterBank was not made", problems)
        self._declared = {
            "capacity": int(capacity),
            "rank": rank and int(rank),
            "targets": targets,
        }
        self._base, self._layers = base, layers
        self._lock = threading.RLock()
        self._saving = threading.Lock()
        self._preparing = threading.Lock()
        self._adapters: Adapters = {}
        self._inputs = symbolic_inputs(base)
        limits = declared_kinds(layers, rank, targets)
        unfit = probe(base, layers, self._inputs)
        limits = {p: k for p, k in limits.items() if p not in unfit.inputs}
        sampled = is_sampled(layers.values())
        digests = by_path(
            {p: layer_digests(la, sampled) for p, la in layers.items()}
        )
        self._slots = Slots(layers, int(capacity))
        self._training = [v for v in base.variables if v.trainable]
        self._using: list[str | None] = []
        self._restore: list[Callable[[], None]] = []
        try:
            self._take_base()
            self._slots.provide(limits)
            self._model = self._build_model()
            outputs = list(self._model.outputs)
        except BaseException:
            self._leave_base()
            raise
        self._served = ServedBase(layers, digests, sampled, outputs, unfit)
        forget_compiled(layers.values())

    def _take_base(self) -> None:
        """Marks the base as served, and keeps it from training."""
        for variable in self._training:
            variable.trainable = False
        for layer in self._layers.values():
            layer.__dict__["_keras_lora_bank"] = self
            layer.__dict__[HOLD] = self._hold
            self._restore += surgery.hold_inference(layer, SERVED)
        self._restore += surgery.forbid_training(self._base, SERVED)
        self._restore += surgery.run_within(self._base, PLAIN_CALLS, self._hold)

    def _leave_base(self) -> None:
        """Makes the base what it was."""
        self._slots.close()
        while self._restore:
            self._restore.pop()()
        for layer in self._layers.values():
            layer.__dict__.pop("_keras_lora_bank", None)
            layer.__dict__.pop(HOLD, None)
        for variable in self._training:
            variable.trainable = True

    def _build_model(self) -> Any:
        ids = keras.Input((), dtype="int32", name="adapter_ids")
        routed = Routed(self._base, lambda: self._slots.count, name="routed")
        outputs = routed(self._inputs, ids)
        model = keras.Model(with_ids(self._inputs, ids), outputs, name="bank")
        surgery.forbid_training(model, SERVED)
        return model

    @property
    def model(self) -> Any:
        """A Keras model over the base's inputs and `adapter_ids`.

        `adapter_ids` is int32 (batch,): slots as `adapter_ids` gives them, 0
        for the base. It gives the base's outputs; a row with an id that is no
        slot is NaN. Calls that run while others load adapters should hold no
        id for long: an adapter may leave its slot.
        """
        self._check_attached()
        return self._model

    @property
    def cache_misses(self) -> int:
        """How often an adapter had to be put into a slot, as no slot had it."""
        return self._slots.cache_misses

    @property
    def brought_in(self) -> int:
        """What `cache_misses` was called in version 0.1."""
        return self.cache_misses

    @property
    def names(self) -> list[str]:
        """The loaded adapters, in the order they were first loaded."""
        with self._lock:
            return list(self._adapters)

    def load(self, name: str, path: str | os.PathLike[str]) -> None:
        """Reads an adapter; a name that is loaded gets its contents.

        Args:
            name: 1 to 100 letters, digits, dots, dashes and underscores.
            path: An adapter file that was trained on this base, or a Hugging
                Face PEFT folder for it, as in `load_peft`. A classifier in
                one becomes a head where its `task_type` tells what it stands
                on: `SEQ_CLS` on a pooled output, `TOKEN_CLS` on a sequence.

        Raises:
            ValueError: The file cannot be read or does not fit the base, or
                trained something of the base itself (the weights are named),
                or has a head that cannot be rebuilt, or the slots for it
                would take more than the machine's memory. The bank is as it
                was.
        """
        self._check_attached()
        adapter = read_adapter(name, path, self._served)
        with self._attached():
            grown = self._slots.provide(adapter.kinds)
            if grown:
                forget_compiled([*self._layers.values(), self._model])
                LOG.info(
                    "bank grew on %d layers; functions are traced again", grown
                )
            old = self._adapters.get(name)
            if old is not None and old is self._slots.pinned:
                self._slots.pin(adapter)
            self._adapters[name] = adapter
            if old is not None:
                self._slots.drop(old)

    def unload(self, name: str) -> None:
        """Forgets an adapter.

        Raises:
            ValueError: No adapter has this name, or it is in use.
        """
        with self._attached():
            what = f"{name!r} was not unloaded"
            raise_if(what, self._unknown([name]))
            if name in self._using:
                raise ValueError(f"{what}: leave its `using` block first")
            self._slots.drop(self._adapters.pop(name))

    @contextlib.contextmanager
    def using(self, name: str | None) -> Iterator[Any]:
        """Makes plain calls of the base follow an adapter in a `with` block.

        Plain calls are those of the base itself and of models around it, such
        as `base(x)`, `base.predict` or KerasHub's `generate`. In the block
        they give the base's output as the adapter makes it, without its head.
        Nothing is traced again. The bank is held: what other threads ask of
        it, and what they run compiled of the base, waits until the block
        ends; there they get the base. Blocks may be nested; the innermost
        counts. Many callers at a time are served by `predict`.

        Args:
            name: The adapter, or None for the base.

        Yields:
            The base.

        Raises:
            ValueError: No adapter has this name, or no slot is free.

        Example:

        ```python
        base = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        keras_lora.inject(base, keras_lora.LoRAConfig(rank=2))
        keras_lora.save_adapter(base, "a.safetensors")
        bank = keras_lora.AdapterBank(keras_lora.eject(base))
        bank.load("a", "a.safetensors")
        with bank.using("a"):
            y = base.predict(np.ones((1, 8), "float32"), verbose=0)
        ```
        """
        with self._attached():
            raise_if("Nothing is in use", self._unknown([name]))
            self._pin(name)
            self._using.append(name)
            try:
                yield self._base
            finally:
                self._using.pop()
                self._pin(self._using[-1] if self._using else None)

    def _pin(self, name: str | None) -> None:
        self._slots.pin(None if name is None else self._adapters[name])

    @property
    def active(self) -> None:
        """What version 0.1 had in place of `using`."""
        raise AttributeError(REPLACED)

    @active.setter
    def active(self, name: Any) -> None:
        raise AttributeError(REPLACED)

    def adapter_ids(self, adapter: Sequence[str | None]) -> np.ndarray:
        """Brings adapters in and gives the ids that `model` takes.

        Args:
            adapter: A name, or None for the base, a row.

        Returns:
            Int32 array (rows,). It holds until other adapters are brought in.

        Raises:
            ValueError: A name is not loaded, or there are more than fit.
        """
        with self._attached():
            adapter = names_of_rows(adapter, 1)
            raise_if("No ids", self._unknown(adapter))
            wanted = dict.fromkeys(n for n in adapter if n is not None)
            if len(wanted) > self._slots.capacity:
                raise ValueError(
                    f"{len(wanted)} adapters do not fit into capacity "
                    f"{self._slots.capacity} at once"
                )
            return np.array(self._slots_of(adapter, self._adapters), "int32")

    def predict(
        self, x: Any, adapter: Names = None, batch_size: int = 32
    ) -> Any:
        """Runs rows with their adapters, many adapters in one forward pass.

        Args:
            x: The base's inputs, arrays or a nest of them, batch first. A
                base with a `preprocessor`, such as a KerasHub task, takes
                what that takes: a list of texts, raw images.
            adapter: None for the base, a name for all rows, or one name or
                None a row, in any order.
            batch_size: Rows in a forward pass, int above 0. A batch with more
                adapters than `capacity` is split.

        Returns:
            For None or one name: the head's output, or the base's where the
            adapter has no head, as an array (or nest) with all rows. For a
            list: a list with each row's own, since heads may differ.

        Raises:
            ValueError: A name is not loaded (all are listed with what is),
                there are not as many as rows, or `x` is not what the base, or
                its preprocessor, takes.
        """
        base = self._base
        raw = has_preprocessor(base)
        rows = row_count(x, raw)
        problems = positive_int("batch_size", batch_size)
        one = adapter is None or isinstance(adapter, str)
        names = names_of_rows(adapter, rows)
        if len(names) != rows:
            problems.append(f"{len(names)} adapters were given for {rows} rows")
        with self._attached():
            problems += self._unknown([adapter] if one else names)
            raise_if("Nothing was predicted", problems)
            chosen = {n: self._adapters[n] for n in names if n is not None}
            if isinstance(adapter, str):
                chosen[adapter] = self._adapters[adapter]
            room = self._slots.room
            resident = {
                a.name for a in chosen.values() if a in self._slots.resident
            }
        if raw:
            # Its packer is made by the first call: one thread at a time.
            with self._preparing:
                x = prepared(base, x if rows else one_row_like(x), rows or 1)
        if one and not rows:
            return self._no_rows(x, chosen.get(adapter))
        results: list[Any] = [None] * rows
        whole = Batch(list(range(rows)), names)
        for batch in whole.cut(batch_size, room, resident):
            for part, features in self._forward(x, batch, chosen, batch_size):
                spread(features, part, chosen, results)
        if not one:
            return results
        return keras.tree.map_structure(lambda *a: np.stack(a), *results)

    def _forward(
        self, x: Any, batch: Batch, chosen: Adapters, batch_size: int
    ) -> list[tuple[Batch, Any]]:
        """Runs a batch; the lock spans finding the slots and reading them.

        It is one pass, unless `using` has taken a slot since the batch was
        cut.
        """
        done = []
        with self._attached():
            for part in batch.cut(batch_size, self._slots.room):
                count = len(part.rows)
                size = padded(count, batch_size)
                ids = np.zeros(size, "int32")
                ids[:count] = self._slots_of(part.names, chosen)
                taken = np.resize(part.rows, size)
                inputs = with_ids(rows_of(x, taken), ids, self._inputs)
                done.append((part, self._model.predict_on_batch(inputs)))
            for adapter in {chosen[n] for n in batch.names if n is not None}:
                if self._adapters.get(adapter.name) is not adapter:
                    # It was replaced or unloaded while the call ran.
                    self._slots.drop(adapter)
        return done

    def _slots_of(
        self, names: Sequence[str | None], chosen: Adapters
    ) -> list[int]:
        """Brings in what rows need; gives each row's slot."""
        wanted = [n for n in dict.fromkeys(names) if n is not None]
        slots = self._slots.bring_in([chosen[name] for name in wanted])
        slot = dict(zip([None, *wanted], [0, *slots], strict=True))
        return [slot[name] for name in names]

    def _no_rows(self, x: Any, adapter: BankAdapter | None) -> Any:
        """The output for no rows: in shape and dtype what a row gives."""
        row = keras.tree.map_structure(
            lambda a: np.zeros((1, *np.shape(a)[1:]), np.asarray(a).dtype), x
        )
        [(_, features)] = self._forward(row, Batch([0], [None]), {}, 1)
        outputs = adapter.outputs(features) if adapter else features
        return rows_of(outputs, slice(0))

    def export(self, path: str | os.PathLike[str]) -> None:
        """Writes a SavedModel with all loaded adapters, for TF Serving.

        Its inputs are the base's and `adapter_ids`; its outputs `features`
        and one per adapter that has a head, under the adapter's name, with NaN
        in the rows of others. `adapters.json` in the folder has each name's
        id. Needs the TensorFlow backend.

        Args:
            path: Folder to make; it must not be there yet.

        Raises:
            ValueError: Another backend is in use, or the folder is there.
        """
        with self._attached():
            hosts, adapters = self._slots.hosts, list(self._adapters.values())
            export(Path(path), self._base, self._inputs, hosts, adapters)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a folder of adapter files and an index.

        A crash in the middle leaves what the folder held before. Several
        processes may save one folder; it is the bank of the last one, and
        who restores it meanwhile gets one of theirs, whole.

        Args:
            path: The folder; it is made if need be.

        Raises:
            ValueError: Something cannot be written, or others have been
                saving the folder for a minute.
        """
        with self._attached():
            adapters = list(self._adapters.values())
            settings = dict(self._declared)
        with self._saving:
            write_folder(Path(path), adapters, settings)

    @classmethod
    def restore(
        cls, base: Layer, path: str | os.PathLike[str]
    ) -> "AdapterBank":
        """Makes the bank that `save` wrote.

        Args:
            base: The base of its adapters, with nothing attached.
            path: The folder.

        Raises:
            ValueError: The folder, its index or a file is not in order; the
                base is as it was.
        """
        folder = Path(path)
        return read_folder(folder, lambda index: cls._made(base, folder, index))

    @classmethod
    def _made(
        cls, base: Layer, folder: Path, index: dict[str, Any]
    ) -> "AdapterBank":
        bank = cls(base, **{key: index[key] for key in DECLARED})
        try:
            for name, file in index["adapters"].items():
                bank.load(name, folder / file)
            if index.get("active") is not None:
                LOG.warning(
                    "%s: %r was active; call the base in "
                    "`with bank.using(%r)` now",
                    folder,
                    index["active"],
                    index["active"],
                )
        except BaseException:
            bank.detach()
            raise
        return bank

    def summary(self) -> BankSummary:
        """A table of the adapters and of what they cost in memory.

        Returns:
            A `BankSummary` to print, or to read: a row an adapter, and the
            bytes of the base with all adapters against merged copies.
        """
        with self._attached():
            adapters = list(self._adapters.values())
            return summarize(self._base, self._slots, adapters)

    def detach(self) -> Any:
        """Gives the base back, bit for bit, and ends the bank.

        Returns:
            The base.

        Raises:
            ValueError: It is called in a `using` block.
        """
        with self._attached():
            if self._using:
                raise ValueError(
                    "The bank was not detached: leave its `using` block first"
                )
            self._leave_base()
            forget_compiled(self._layers.values())
            self._adapters.clear()
            base, self._base = self._base, None
            return base

    @contextlib.contextmanager
    def _attached(self) -> Iterator[None]:
        """Holds the lock over a bank that is not detached."""
        with self._lock:
            self._check_attached()
            yield

    def _hold(self) -> threading.RLock:
        """What keeps others away while the base is called plainly."""
        return self._lock

    def _check_attached(self) -> None:
        if self._base is None:
            raise ValueError("The bank was detached; make a new one")

    def _unknown(self, names: Sequence[Any]) -> list[str]:
        """Says which names are not loaded, and what is."""
        loaded = ", ".join(self._adapters) or "none"
        wrong = [
            f"no adapter {name!r}. Loaded: {loaded}"
            for name in names
            if name is not None
            and not (isinstance(name, str) and name in self._adapters)
        ]
        return list(dict.fromkeys(wrong))
