"""A small language model that takes texts, and adapters that change its say."""

import contextlib

import keras_lora
from tests.banks import served
from tests.models import hub, set_random

LENGTH = 24
TEXTS = ["a b c", "the cat", "x", "some more words"]


def speaker():
    """The same random model at every call; greedy."""
    models = hub().models
    letters = "abcdefghijklmnopqrstuvwxyz"
    spaced = [f"Ġ{one}" for one in letters]
    symbols = ["!", "<|endoftext|>", "Ġ", *letters, *spaced]
    preprocessor = models.GPT2CausalLMPreprocessor(
        models.GPT2Tokenizer(
            vocabulary={one: number for number, one in enumerate(symbols)},
            merges=[f"Ġ {one}" for one in letters],
        ),
        sequence_length=LENGTH,
    )
    backbone = models.GPT2Backbone(
        vocabulary_size=len(symbols),
        num_layers=2,
        num_heads=2,
        hidden_dim=16,
        intermediate_dim=32,
        max_sequence_length=LENGTH,
        dropout=0.0,
    )
    task = models.GPT2CausalLM(backbone, preprocessor=preprocessor)
    set_random(task.weights, seed=1, size=0.3)
    task.compile(sampler="greedy")
    return task


def dialects(folder, names="abc"):
    """Adapters for it, one file a name."""
    task = speaker()
    for seed, name in enumerate(names, 1):
        keras_lora.inject(task, keras_lora.LoRAConfig(rank=3))
        set_random(task.trainable_variables, seed=seed, size=0.5)
        keras_lora.save_adapter(task, folder / f"{name}.safetensors")
        keras_lora.eject(task)
    return {name: folder / f"{name}.safetensors" for name in names}


@contextlib.contextmanager
def speaking_bank(folder, names="ab"):
    """A bank over it, with its dialects."""
    with served(speaker()) as bank:
        for name, path in dialects(folder, names).items():
            bank.load(name, path)
        yield bank
