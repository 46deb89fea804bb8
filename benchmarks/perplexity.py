"""How well adapters of a language model know their source's texts.

A GPT-2 is pretrained on films, tweets, products and editorials, and an adapter
is trained for each source. Perplexity is of the answers' tokens in texts that
were in no training; each source's are read by the base, by its own adapter and
by the others'. `docs/how-to/language-models.md` trains in the same way.

    python -m benchmarks.perplexity [--json FILE]
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import keras
import keras_hub
import numpy as np
from tokenizers import ByteLevelBPETokenizer

import keras_lora
from app.texts.data import Split
from app.texts.tasks import get_task
from benchmarks.train_step import describe

SOURCES = {
    "films": "movie-sentiment",
    "tweets": "tweet-sentiment",
    "products": "product-sentiment",
    "editorials": "editorial-sentiment",
}
PROMPTS = ("A negative text:", "A positive text:")
END = "<|endoftext|>"
SETTINGS = ("layers", "width", "vocabulary", "tokens", "batch", "texts", "rank")


def texts() -> tuple[dict[str, Split], dict[str, Split]]:
    """Texts to train on and texts held out, by source; none is in both."""
    splits = {name: get_task(task).load() for name, task in SOURCES.items()}
    train = {name: split.train for name, split in splits.items()}
    seen = {text.lower() for part in train.values() for text in part.texts}
    held = {}
    for name, split in splits.items():
        new = [text.lower() not in seen for text in split.test.texts]
        rows = np.flatnonzero(new)
        held[name] = Split(
            [split.test.texts[row] for row in rows], split.test.labels[rows]
        )
    return train, held


def pretrain(
    train: dict[str, Split], folder: Path, options: argparse.Namespace
) -> Any:
    """A language model of all sources, with its preprocessor."""
    mixed = [text for part in train.values() for text in part.texts]
    np.random.default_rng(0).shuffle(mixed)
    learner = ByteLevelBPETokenizer()
    learner.train_from_iterator(
        mixed, options.vocabulary, special_tokens=[END], show_progress=False
    )
    files = learner.save_model(str(folder))
    tokenizer = keras_hub.models.GPT2Tokenizer(*files)
    length = options.tokens
    stream = np.concatenate(
        [[tokenizer.end_token_id, *ids] for ids in tokenizer(mixed)]
    )
    rows = stream[: len(stream) // (length + 1) * (length + 1)]
    rows = rows.reshape(-1, length + 1).astype("int32")
    model = keras_hub.models.GPT2CausalLM(
        keras_hub.models.GPT2Backbone(
            vocabulary_size=tokenizer.vocabulary_size(),
            num_layers=options.layers,
            num_heads=4,
            hidden_dim=options.width,
            intermediate_dim=4 * options.width,
            max_sequence_length=length,
            dropout=0.0,
        ),
        preprocessor=None,
    )
    inputs = {"token_ids": rows[:, :-1]}
    inputs["padding_mask"] = np.ones_like(inputs["token_ids"])
    train_on(model, (inputs, rows[:, 1:], None), 2e-3, options.batch)
    model.preprocessor = keras_hub.models.GPT2CausalLMPreprocessor(
        tokenizer, sequence_length=length
    )
    return model


def train_on(model: Any, data: Any, rate: float, batch: int) -> None:
    """One pass by Adam; its rate rises for a tenth of the steps, then falls."""
    x, y, weights = data
    steps = len(y) // batch
    model.compile(
        optimizer=keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(
                0.0, steps, warmup_target=rate, warmup_steps=steps // 10
            )
        ),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=[keras_hub.metrics.Perplexity(from_logits=True)],
    )
    model.fit(x, y, sample_weight=weights, batch_size=batch, verbose=2)


def answers(preprocessor: Any, part: Split) -> tuple[Any, Any, Any]:
    """Inputs, labels and weights; a prompt's tokens weigh nothing."""
    prompts = [PROMPTS[label] for label in part.labels]
    pairs = zip(prompts, part.texts, strict=True)
    x, y, weights = preprocessor([f"{p} {text}" for p, text in pairs])
    asked = [len(ids) for ids in preprocessor.tokenizer(prompts)]
    weights = np.arange(y.shape[1]) >= np.array(asked)[:, None]
    x = {name: np.array(value) for name, value in x.items()}
    y = np.array(y)
    # The label of a text's last token is the end; what follows is padding.
    return x, y, (weights * x["padding_mask"]).astype("float32")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Trains the base and the adapters, and reads the held-out texts."""
    keras.utils.set_random_seed(0)
    train, held = texts()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        model = pretrain(train, Path(folder), options)
        seconds = {"base": time.perf_counter() - start}
        preprocessor, model.preprocessor = model.preprocessor, None
        asked = {n: answers(preprocessor, part) for n, part in held.items()}
        read = {"base": perplexities(model, asked)}
        files = {}
        for name, part in train.items():
            few = Split(
                part.texts[: options.texts], part.labels[: options.texts]
            )
            keras_lora.inject(model, keras_lora.LoRAConfig(options.rank))
            start = time.perf_counter()
            train_on(model, answers(preprocessor, few), 5e-3, options.batch)
            seconds[name] = time.perf_counter() - start
            read[name] = perplexities(model, asked)
            path = Path(folder) / f"{name}.safetensors"
            keras_lora.save_adapter(model, path)
            files[name] = path.stat().st_size
            keras_lora.eject(model)
    return {
        **describe(options, SETTINGS),
        "weights": model.count_params(),
        "trained_on": {name: len(part) for name, part in train.items()},
        "held_out": {name: len(part) for name, part in held.items()},
        "seconds": seconds,
        "bytes": files,
        "perplexity": read,
    }


def perplexities(model: Any, asked: dict[str, Any]) -> dict[str, float]:
    """The model's perplexity on each source."""
    found = {}
    model.compile(
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=[keras_hub.metrics.Perplexity(from_logits=True)],
    )
    for name, (x, y, weights) in asked.items():
        result = model.evaluate(
            x,
            y,
            sample_weight=weights,
            batch_size=64,
            return_dict=True,
            verbose=0,
        )
        found[name] = result["perplexity"]
    return found


def main() -> None:
    """Measures, prints, and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--vocabulary", type=int, default=5000)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--json", type=Path, help="also write the result here")
    result = measure(options := parser.parse_args())
    for reader, row in result["perplexity"].items():
        print(f"{reader:12}", {name: round(p, 1) for name, p in row.items()})
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
