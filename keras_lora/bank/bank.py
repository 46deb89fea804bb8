"""One base, many adapters: each call, or each row of a call, names its own."""

import os
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_lora.bank.adapter import BankAdapter
from keras_lora.bank.batches import (
    Adapters,
    Batch,
    Names,
    band_of,
    padded,
    rows_of,
    spread,
)
from keras_lora.bank.core import DECLARED, LOG
from keras_lora.bank.export import export
from keras_lora.bank.folder import read_folder, write_folder
from keras_lora.bank.inputs import with_ids
from keras_lora.bank.summary import BankSummary, summarize
from keras_lora.bank.together import TogetherBank
from keras_lora.model.surgery import Layer
from keras_lora.settings import positive_int


class AdapterBank(TogetherBank):
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

    def predict(
        self, x: Any, adapter: Names = None, batch_size: int = 32
    ) -> Any:
        """Runs rows with their adapters, many adapters in one forward pass.

        Args:
            x: The base's inputs, arrays or a nest of them, batch first. A
                base with a `preprocessor`, such as a KerasHub task, takes
                what that takes: a list of texts, raw images.
            adapter: None for the base, a name for all rows, or one name or
                None for each row, in any order.
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
        rows = self._count(x)
        problems = positive_int("batch_size", batch_size)
        one = adapter is None or isinstance(adapter, str)
        with self._attached():
            names, chosen = self._choose(
                "Nothing was predicted", adapter, rows, problems
            )
            room = self._slots.room
            resident = {
                a.name for a in chosen.values() if a in self._slots.resident
            }
        x = self._prepared(x, rows)
        if one and not rows:
            return self._no_rows(x, next(iter(chosen.values()), None))
        results: list[Any] = [None] * rows
        whole = Batch(list(range(rows)), names)
        for batch in [
            batch
            for rows_of_band in whole.apart(chosen)
            for batch in rows_of_band.cut(batch_size, room, resident)
        ]:
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
                model = self._models.of(band_of(part.names, chosen))
                done.append((part, model.predict_on_batch(inputs)))
            self._drop_replaced(chosen, batch.names)
        return done

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
        and one for each adapter that has a head, under its name, with NaN
        in the rows of others. `adapters.json` in the folder has each name's
        id, and its labels where it has some. Needs the TensorFlow backend.

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
            A `BankSummary` to print, or to read: a row for each adapter, and
            the bytes of the base with all adapters against merged copies.
        """
        with self._attached():
            adapters = list(self._adapters.values())
            return summarize(self._base, self._slots, adapters)
