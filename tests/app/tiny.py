"""The demo on a small random base: everything real but size and training."""

import zlib
from pathlib import Path

import keras
import numpy as np
from safetensors.numpy import save_file

import keras_lora
from app.learn.shipped import METHODS, PROBES, SHIPPED
from app.serve.service import Source
from app.texts.base import MAX_TOKENS, build_base, pad
from app.texts.tasks import get_task

WIDTH = 32
VOCABULARY = 300
SEED = 7
CONFIGS = {
    "lora": keras_lora.LoRAConfig(rank=4),
    "bottleneck": keras_lora.AdapterConfig(bottleneck=4),
}


class TinyTokenizer:
    """A token a word, by a hash that is the same in every process."""

    def encode(self, texts):
        return [self._tokens(text)[:MAX_TOKENS] for text in texts]

    def __call__(self, texts, length=None):
        return pad(self.encode(texts), length)

    def _tokens(self, text):
        words = text.lower().split()
        return [1, *(2 + zlib.crc32(w.encode()) % 290 for w in words)]


def tiny_base(progress=None):
    """The same random base at every call."""
    if progress is not None:
        progress("Fetching tiny==1.0 (0 MB)", 0.5)
    keras.utils.set_random_seed(SEED)
    return build_base(layers=2, width=WIDTH, heads=2, vocabulary=VOCABULARY)


def adapter(path, classes=2, base=None, config=None, seed=0, behind=(), **head):
    """Writes an adapter with random weights, far from zero.

    Its head is a dense layer, and the layers `behind` that.
    """
    base = base or tiny_base()
    rng = np.random.default_rng(seed)
    keras_lora.inject(base, config or keras_lora.LoRAConfig(rank=4))
    outputs = base(base.input)
    for layer in (keras.layers.Dense(classes, name="head", **head), *behind):
        outputs = layer(outputs)
    model = keras.Model(base.input, outputs)
    for variable in model.trainable_variables:
        variable.assign(0.3 * rng.standard_normal(variable.shape))
    keras_lora.save_adapter(model, path)
    keras_lora.eject(base)
    return Path(path)


def adapters_folder(folder):
    """A folder as the shipped one, with the probes."""
    base = tiny_base()
    (folder / PROBES).mkdir(exist_ok=True)
    for seed, name in enumerate(SHIPPED):
        classes = len(get_task(name).labels)
        config = CONFIGS[METHODS.get(name, "lora")]
        file = folder / f"{name}.safetensors"
        adapter(file, classes, base=base, config=config, seed=seed)
        rng = np.random.default_rng(seed)
        kernel = rng.standard_normal((WIDTH, classes)).astype("float32")
        bias = np.zeros(classes, "float32")
        save_file(
            {"kernel": kernel, "bias": bias},
            folder / PROBES / f"{name}.safetensors",
        )
    (folder / "results.json").write_text(
        '{"movie-sentiment": {"accuracy": 0.871, "baselines": '
        '{"TF-IDF + logistic regression": 0.8}}}'
    )
    return folder


def tiny_source(folder):
    """A source for `Service.start`."""
    return Source(
        load_base=tiny_base,
        make_tokenizer=lambda progress: TinyTokenizer(),
        adapters=folder,
    )


def csv_bytes(rows=80, labels=("neg", "pos")):
    """Texts that a word tells apart, as a CSV."""
    words = ("dull weak poor", "bright strong fine")
    lines = [
        f'"{words[i % len(labels) % 2]} number {i}",{labels[i % len(labels)]}'
        for i in range(rows)
    ]
    return "\n".join(["text,label", *lines]).encode()
