"""One base with adapters in its slots, and who uses them when."""

import contextlib
import logging
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from keras_lora.bank.adapter import ServedBase, read_adapter
from keras_lora.bank.batches import Adapters, Names, names_of_rows
from keras_lora.bank.generate import Generator
from keras_lora.bank.held import HeldBase
from keras_lora.bank.memory import LARGEST_RANK, MOST_SLOTS
from keras_lora.bank.models import Models
from keras_lora.bank.probe import probe
from keras_lora.bank.slots import Slots, declared_kinds
from keras_lora.errors import raise_if
from keras_lora.files.format import AdapterInfo
from keras_lora.model.compiled import forget_compiled
from keras_lora.model.fingerprint import digests_of, is_sampled
from keras_lora.model.paths import structural_paths
from keras_lora.model.surgery import Layer
from keras_lora.rewrite.checks import not_a_base
from keras_lora.settings import positive_int, wrong_targets
from keras_lora.targets import Targets

LOG = logging.getLogger("keras_lora")
DECLARED = ("capacity", "rank", "targets")
"""Settings that a saved bank is made with again."""
REPLACED = "`active` is gone: write `with bank.using(name): ...`"


class Served(HeldBase):
    """A base, the adapters loaded for it, and who may use them when."""

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
        super().__init__(base, layers)
        self._saving = threading.Lock()
        self._preparing = threading.Lock()
        self._generator: Generator | None = None
        self._adapters: Adapters = {}
        limits = declared_kinds(layers, rank, targets)
        unfit = probe(base, layers, self._inputs)
        no_lora = unfit.inputs | unfit.kernels
        limits = [
            {p: k for p, k in kinds.items() if p not in no_lora}
            for kinds in limits
        ]
        sampled = is_sampled(layers.values())
        digests = digests_of(layers, sampled)
        self._slots = Slots(layers, int(capacity))
        self._using: list[str | None] = []
        try:
            self._take_base()
            self._slots.provide(*limits)
            self._models = Models(base, self._inputs, self._slots, self._hold)
            outputs = list(self._models.whole.outputs)
        except BaseException:
            self._slots.close()
            self._leave_base()
            raise
        self._served = ServedBase(layers, digests, sampled, outputs, unfit)
        forget_compiled(layers.values())

    @property
    def model(self) -> Any:
        """A Keras model over the base's inputs and `adapter_ids`.

        `adapter_ids` is int32 (batch,): slots as `adapter_ids` gives them, 0
        for the base. It gives the base's outputs; a row with an id that is no
        slot is NaN. Calls that run while others load adapters should hold no
        id for long: an adapter may leave its slot.
        """
        self._check_attached()
        return self._models.whole

    @property
    def cache_hits(self) -> int:
        """How often an adapter that was needed sat in a slot already."""
        return self._slots.cache_hits

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
        # Without the lock, which is held while rows run; as `info` below.
        return list(self._adapters)

    def info(self, name: str) -> AdapterInfo:
        """What the file of a loaded adapter says of itself.

        Raises:
            ValueError: No adapter has this name.
        """
        found = self._adapters.get(name)
        if found is not None:
            return found.info
        [problem] = self._missing([name])
        raise ValueError(f"Nothing is known of it.\n- {problem}")

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
                whole = self._models.whole
                forget_compiled([*self._layers.values(), whole])
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
            adapter: For each row a name, or None for the base.

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

    def _choose(
        self,
        what: str,
        adapter: Names,
        rows: int,
        problems: Sequence[str] = (),
    ) -> tuple[list[str | None], Adapters]:
        """The adapter of each row, and what is loaded under these names."""
        one = adapter is None or isinstance(adapter, str)
        names = names_of_rows(adapter, rows)
        wrong = list(problems)
        if len(names) != rows:
            wrong.append(f"{len(names)} adapters were given for {rows} rows")
        asked: list[Any] = [adapter] if one else names
        raise_if(what, wrong + self._unknown(asked))
        return names, {n: self._adapters[n] for n in asked if n is not None}

    def _drop_replaced(
        self, chosen: Adapters, names: Sequence[str | None]
    ) -> None:
        """Frees the slots of adapters that are not the bank's any more."""
        for adapter in {chosen[name] for name in names if name is not None}:
            if self._adapters.get(adapter.name) is not adapter:
                self._slots.drop(adapter)

    def _slots_of(
        self, names: Sequence[str | None], chosen: Adapters
    ) -> list[int]:
        """Brings in what rows need; gives each row's slot."""
        wanted = [n for n in dict.fromkeys(names) if n is not None]
        slots = self._slots.bring_in([chosen[name] for name in wanted])
        slot = dict(zip([None, *wanted], [0, *slots], strict=True))
        return [slot[name] for name in names]

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
            self._idle.wait_for(lambda: not self._calls)
            self._check_attached()
            self._slots.close()
            self._leave_base()
            forget_compiled(self._layers.values())
            self._adapters.clear()
            self._generator = None
            del self._models
            base, self._base = self._base, None
            return base

    def _unknown(self, names: Sequence[Any]) -> list[str]:
        """Says which names are not loaded, and what is."""
        return self._missing(
            name
            for name in names
            if name is not None
            and not (isinstance(name, str) and name in self._adapters)
        )

    def _missing(self, names: Iterable[Any]) -> list[str]:
        """Says that names are not loaded, and what is."""
        loaded = ", ".join(self.names) or "none"
        wrong = [f"no adapter {name!r}. Loaded: {loaded}" for name in names]
        return list(dict.fromkeys(wrong))
