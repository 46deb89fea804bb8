"""Adapters in layers whose outputs are computed again for their gradients."""

import keras
import numpy as np
import pytest

import keras_lora
from tests.helpers import fill
from tests.marks import pairs
from tests.models import STEPS, WORDS, gpt2, set_random, values_of

TORCH = keras.backend.backend() == "torch"


def rematerialized(layer):
    """As docs/how-to/language-models.md has it."""
    call = layer.call

    def again(*inputs, **options):
        return keras.remat(lambda *x: call(*x, **options))(*inputs)

    layer.call = again


CONFIGS = {
    "lora": keras_lora.LoRAConfig(rank=2),
    "dora": keras_lora.DoRAConfig(rank=2),
    "ia3": keras_lora.IA3Config(),
    "houlsby": keras_lora.AdapterConfig(bottleneck=2, placement="houlsby"),
    "parallel": keras_lora.AdapterConfig(bottleneck=2, placement="parallel"),
}


def trained(task, config):
    """The adapter's weights before and after a few steps."""
    set_random(task.weights, 0)
    fill(keras_lora.inject(task, config))
    start = values_of(task.trainable_variables)
    task.compile(
        optimizer=keras.optimizers.SGD(0.1),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=[],
    )
    tokens = np.random.default_rng(0).integers(0, WORDS, (4, STEPS))
    x = {"token_ids": tokens, "padding_mask": np.ones_like(tokens)}
    task.fit(x, np.roll(tokens, -1, 1), batch_size=4, epochs=3, verbose=0)
    return start, values_of(task.trainable_variables)


def assert_same_steps(plain, again):
    start, end = plain
    assert all(
        np.abs(a - b).max() > 1e-6 for a, b in zip(start, end, strict=True)
    )
    for one, other in zip(end, again[1], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.skipif(TORCH, reason="Keras on torch forgets `training` there")
@pytest.mark.parametrize("method", pairs(("lora",), CONFIGS))
def test_blocks_that_are_computed_again_train_alike(method):
    config = CONFIGS[method]
    task = gpt2()
    for block in task.backbone.transformer_layers:
        rematerialized(block)
    again = trained(task, config)
    assert_same_steps(trained(gpt2(), config), again)


@pytest.mark.extra
def test_a_remat_scope_of_activations_trains_alike():
    config = keras_lora.LoRAConfig(rank=2)
    with keras.RematScope("activations"):
        task = gpt2()
    again = trained(task, config)
    assert_same_steps(trained(gpt2(), config), again)
