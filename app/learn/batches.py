"""Batches of texts of like length, so that little of a batch is padding."""

from collections.abc import Callable, Sequence

import keras
import numpy as np

from app.texts.base import Tokenizer, pad, padded_length

SORTED_BATCHES = 40
"""How many batches' worth of shuffled texts are sorted together."""


class Batches(keras.utils.PyDataset):
    """Texts sorted by length and cut into batches; every text once.

    Args:
        texts: the texts.
        tokenizer: texts to token ids; applied once, here.
        labels: int32, one for each text; None for inputs alone.
        batch_size: rows in a batch; the last one may have fewer.
    """

    def __init__(
        self,
        texts: Sequence[str],
        tokenizer: Tokenizer,
        labels: np.ndarray | None = None,
        batch_size: int = 32,
    ) -> None:
        super().__init__()
        self.batch_size = batch_size
        self._rows = tokenizer.encode(texts)
        self._lengths = np.array([len(row) for row in self._rows], "int32")
        self._labels = labels
        self._batches = self._arrange()

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> tuple:
        batch = self._batches[index]
        inputs = pad([self._rows[i] for i in batch])
        if self._labels is None:
            return (inputs,)
        return inputs, self._labels[batch]

    @property
    def order(self) -> np.ndarray:
        """Which text each row is, over all batches in turn."""
        return np.concatenate(self._batches)

    def _arrange(self) -> list[np.ndarray]:
        return self._open_lengths(self._cut(np.arange(len(self._rows))))

    def _cut(self, rows: np.ndarray) -> list[np.ndarray]:
        rows = rows[np.argsort(self._lengths[rows], kind="stable")]
        starts = range(self.batch_size, len(rows), self.batch_size)
        return np.split(rows, starts)

    def _open_lengths(self, batches: list[np.ndarray]) -> list[np.ndarray]:
        # Keras looks at the first two batches only: where they have the same
        # length it takes that for every batch's, and a later one fails.
        widths = [padded_length(self._lengths[b].max()) for b in batches]
        for i, width in enumerate(widths):
            if width != widths[0]:
                batches[1], batches[i] = batches[i], batches[1]
                break
        return batches


class TrainBatches(Batches):
    """Batches that are shuffled anew each epoch.

    Texts are shuffled, sorted by length within runs of some batches, cut,
    and the batches shuffled: neighbours differ from epoch to epoch.

    Args:
        seed: of the shuffling.
        Others as in `Batches`.
    """

    def __init__(
        self,
        texts: Sequence[str],
        tokenizer: Tokenizer,
        labels: np.ndarray,
        batch_size: int = 32,
        seed: int = 0,
    ) -> None:
        self._rng = np.random.default_rng(seed)
        super().__init__(texts, tokenizer, labels, batch_size)

    def on_epoch_end(self) -> None:
        self._batches = self._arrange()

    def _arrange(self) -> list[np.ndarray]:
        rows = self._rng.permutation(len(self._rows))
        run = self.batch_size * SORTED_BATCHES
        parts = np.split(rows, range(run, len(rows), run))
        batches = [batch for part in parts for batch in self._cut(part)]
        batches = [batches[i] for i in self._rng.permutation(len(batches))]
        return self._open_lengths(batches)


def predict_texts(
    model: keras.Model,
    texts: Sequence[str],
    tokenizer: Tokenizer,
    batch_size: int = 32,
    each: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """The model's output for each text, in the order of the texts.

    `each` is called before each batch; what it raises ends the work.

    The model is called rather than asked to `predict`, which would compile
    it once for every length that occurs.
    """
    batches = Batches(texts, tokenizer, batch_size=batch_size)
    outputs = []
    for (inputs,) in (batches[i] for i in range(len(batches))):
        each()
        output = model(inputs, training=False)
        outputs.append(keras.ops.convert_to_numpy(output))
    in_order = np.empty((len(texts), *outputs[0].shape[1:]), outputs[0].dtype)
    in_order[batches.order] = np.concatenate(outputs)
    return in_order
