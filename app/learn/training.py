"""One task's adapter: trained by `fit`, measured and saved."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

import keras_lora
from app.learn.baselines import Probe, bag_of_words, frozen_probe
from app.learn.batches import Batches, TrainBatches, predict_texts
from app.texts.base import Tokenizer, load_base
from app.texts.data import Splits
from app.texts.fetch import Progress
from app.texts.tasks import Task

BAG_OF_WORDS = "TF-IDF + logistic regression"
FROZEN_FEATURES = "frozen features + logistic regression"

WARM_UP = 0.1
"""Share of the steps in which the learning rate rises."""


@dataclass(frozen=True)
class Settings:
    """How an adapter is trained.

    Args:
        epochs: passes over the training texts; None for the task's own.
        method: "lora", "bottleneck" or "side", a ladder beside the base.
        rank: of the low-rank updates.
        alpha: their scale is `alpha / rank`.
        targets: which layers, as `keras_lora.LoRAConfig` takes them.
        bottleneck: inner width of bottlenecks, which sit on the feed-forward
            outputs.
        width: of a ladder.
        learning_rate: the highest, after warming up; it falls to zero.
        batch_size: texts in a step.
        seed: of the adapter's start and the order of the texts. The split
            into training and held-out texts does not depend on it.
    """

    epochs: int | None = None
    method: str = "lora"
    rank: int = 8
    alpha: float = 16
    targets: str | Sequence[str] = "all-linear"
    bottleneck: int = 32
    width: int = 48
    learning_rate: float = 2e-3
    batch_size: int = 32
    seed: int = 0

    def config(
        self,
    ) -> (
        keras_lora.LoRAConfig | keras_lora.AdapterConfig | keras_lora.SideConfig
    ):
        """What `keras_lora.inject` takes."""
        if self.method == "side":
            return keras_lora.SideConfig(width=self.width)
        if self.method == "bottleneck":
            return keras_lora.AdapterConfig(bottleneck=self.bottleneck)
        return keras_lora.LoRAConfig(
            rank=self.rank, alpha=self.alpha, targets=self.targets
        )


@dataclass(frozen=True)
class Result:
    """What training came to.

    Args:
        accuracy: on the test texts, from 0 to 1.
        baselines: accuracy of each baseline on the same texts.
        probe: the baseline that reads the frozen base's features.
        trainable: weights that trained, the head's included.
        share: of all weights, from 0 to 1.
        seconds: wall time of `fit`, validation included.
        path: the adapter's file.
        bytes: its size.
    """

    accuracy: float
    baselines: dict[str, float]
    probe: Probe
    trainable: int
    share: float
    seconds: float
    path: Path
    bytes: int


def train_task(
    task: Task,
    settings: Settings = Settings(),
    *,
    output: Path | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    progress: Progress | None = None,
    report: Callable[[str], None] = lambda line: None,
    verbose: str | int = 0,
) -> Result:
    """Trains an adapter for a task and saves it.

    Args:
        task: what to learn.
        settings: how.
        output: the file; None for `adapters/<task>.safetensors`.
        callbacks: handed to `fit`.
        progress: told how far downloads are.
        report: given a line when something is known.
        verbose: as `fit` takes it.
    """
    output = output or Path("adapters") / f"{task.name}.safetensors"
    splits = task.load(progress)
    base = load_base(progress=progress)
    tokenizer = Tokenizer(progress=progress)
    report(
        f"{task.title} {len(splits.train):,} texts to train on, "
        f"{len(splits.validation):,} to validate, {len(splits.test):,} to test"
    )
    baselines, probe = measure_baselines(base, splits, tokenizer, report)
    keras.utils.set_random_seed(settings.seed)
    model = adapted_model(base, len(task.labels), settings)
    table = keras_lora.summary(model)
    report(
        f"trainable parameters: {table.trainable:,} of {table.total:,} "
        f"({table.percent:.2f} %)"
    )
    start = time.perf_counter()
    epochs = settings.epochs or task.epochs
    fit(model, splits, tokenizer, epochs, settings, callbacks, verbose)
    seconds = time.perf_counter() - start
    logits = predict_texts(model, splits.test.texts, tokenizer)
    output.parent.mkdir(parents=True, exist_ok=True)
    keras_lora.save_adapter(model, output, labels=task.labels, about=task.title)
    return Result(
        accuracy=float(np.mean(logits.argmax(-1) == splits.test.labels)),
        baselines=baselines,
        probe=probe,
        trainable=table.trainable,
        share=table.percent / 100,
        seconds=seconds,
        path=output,
        bytes=output.stat().st_size,
    )


def measure_baselines(
    base: keras.Model,
    splits: Splits,
    tokenizer: Tokenizer,
    report: Callable[[str], None] = lambda line: None,
) -> tuple[dict[str, float], Probe]:
    """Test accuracy of both baselines; the base must carry no adapter."""

    def tell(name: str, accuracy: float) -> None:
        baselines[name] = accuracy
        report(f"baseline, {name}: {accuracy:.3f}")

    baselines: dict[str, float] = {}
    report("measuring the baselines: a minute or two ...")
    tell(BAG_OF_WORDS, bag_of_words(splits))
    probe = frozen_probe(base, splits, tokenizer)
    tell(FROZEN_FEATURES, probe.accuracy)
    return baselines, probe


def adapted_model(
    base: keras.Model, classes: int, settings: Settings
) -> keras.Model:
    """The base with a fresh adapter, and a head for so many classes on it."""
    keras_lora.inject(base, settings.config())
    head = keras.layers.Dense(classes, dtype="float32", name="head")
    return keras.Model(base.input, head(base(base.input)))


def resumed_model(base: keras.Model, file: Path) -> keras.Model:
    """The base with a file's adapter and head, to train on."""
    keras_lora.load_adapter(base, file, head=False)
    head = keras_lora.inspect_adapter(file).build_head()
    return keras.Model(base.input, head(base(base.input)))


def fit(
    model: keras.Model,
    splits: Splits,
    tokenizer: Tokenizer,
    epochs: int,
    settings: Settings,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: str | int = 0,
) -> keras.callbacks.History:
    """Compiles the model and fits it to the training texts."""
    train, validation = splits.train, splits.validation
    size = settings.batch_size
    batches = TrainBatches(
        train.texts, tokenizer, train.labels, size, settings.seed
    )
    compile_for(model, settings.learning_rate, epochs * len(batches))
    return model.fit(
        batches,
        epochs=epochs,
        validation_data=Batches(
            validation.texts, tokenizer, validation.labels, size
        ),
        callbacks=list(callbacks),
        verbose=verbose,
    )


def compile_for(model: keras.Model, highest: float, steps: int) -> None:
    """Compiles a classifier that gives logits.

    Args:
        model: the classifier.
        highest: the learning rate after warming up; it falls to zero.
        steps: of the whole training.
    """
    warm_up = int(steps * WARM_UP)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps - warm_up, warmup_target=highest, warmup_steps=warm_up
    )
    model.compile(
        keras.optimizers.Adam(rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        # On TensorFlow, XLA would compile anew for every length of a batch.
        jit_compile=False
        if keras.backend.backend() == "tensorflow"
        else "auto",
    )
    logits = keras.ops.zeros((1, model.output_shape[-1]))
    make_variables(model, np.zeros(1, "int32"), logits)


def make_variables(model: keras.Model, labels: Any, outputs: Any) -> None:
    """Makes the variables of the optimizer and of the metrics.

    TensorFlow traces a step twice that makes them in its first call.

    Args:
        model: compiled.
        labels: of one row; forgotten at once.
        outputs: the model's, of that row.
    """
    model.optimizer.build(model.trainable_variables)
    model.compute_metrics(None, labels, outputs)
    model.reset_metrics()
