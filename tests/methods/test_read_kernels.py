"""Blocks that multiply by the kernels of their layers and call none of them."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_lora
from keras_lora import AdapterBank, DoRAConfig, IA3Config, LoRAConfig
from tests.helpers import fill, hosts_of, normal
from tests.models import difference, outputs_of, set_random
from tests.peft.families import tiny

WORDS = np.array([[1, 2, 3, 4], [5, 6, 7, 8]], "int32")


@keras.saving.register_keras_serializable(package="test_read_kernels")
class Reading(layers.Layer):
    """A feed-forward block, and logits tied to its table of words."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.table = layers.Embedding(9, 6, name="table")
        self.wide = layers.Dense(5, use_bias=False, name="wide")
        self.back = layers.EinsumDense("abc,cd->abd", (None, 6), name="back")
        self.called = layers.Dense(6, name="called")

    def build(self, shape):
        self.table.build(shape)
        self.wide.build((*shape, 6))
        self.back.build((*shape, 5))
        self.called.build((*shape, 6))
        self.built = True

    def call(self, words):
        x = self.called(self.table(words))
        y = ops.tanh(ops.matmul(x, self.wide.kernel))
        y = ops.einsum("abc,cd->abd", y, self.back.kernel)
        return ops.matmul(x + y, ops.transpose(self.table.embeddings))


READ = "wide", "back", "table"
LORA = LoRAConfig(2, targets=["wide", "back", "table", "called"])
CONFIGS = [
    LORA,
    DoRAConfig(2, targets=["wide", "back", "called"]),
    IA3Config(["wide", "back", "called"]),
]


def reading():
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [keras.Input((4,), dtype="int32"), Reading(name="block")]
    )
    set_random(model.variables, size=0.5)
    return model


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.method)
def test_an_adapter_acts_on_a_kernel_that_others_read(config, tmp_path):
    base = reading()
    plain = outputs_of(base, WORDS)
    kernel = base.layers[0].wide.kernel
    model = keras_lora.inject(base, config)
    assert difference(outputs_of(model, WORDS), plain) == 0
    fill(model)
    adapted = outputs_of(model, WORDS)
    keras_lora.save_adapter(model, tmp_path / "task.safetensors")

    wide = model.layers[0].wide
    assert wide.kernel is kernel
    for layer in wide, model.layers[0].back:
        weights = layer.adapter_weights
        kept = {k: ops.convert_to_numpy(v) for k, v in weights.items()}
        for name in layer.neutral_weights:
            weights[name].assign(0 * kept[name])
        assert difference(outputs_of(model, WORDS), adapted) > 1e-2
        for name in layer.neutral_weights:
            weights[name].assign(kept[name])
    with keras_lora.disabled(model):
        assert difference(outputs_of(model, WORDS), plain) < 1e-6
    if config.method != "ia3":
        keras_lora.merge(model)
        assert difference(outputs_of(model, WORDS), adapted) < 1e-5
    other = keras_lora.load_adapter(reading(), tmp_path / "task.safetensors")
    assert difference(outputs_of(other, WORDS), adapted) < 1e-6
    keras_lora.eject(other)
    assert difference(outputs_of(other, WORDS), plain) == 0


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_it_trains_there_and_the_kernel_stays(dtype):
    keras.config.set_dtype_policy(dtype)
    try:
        model = keras_lora.inject(reading(), LORA)
    finally:
        keras.config.set_dtype_policy("float32")
    before = [ops.convert_to_numpy(v) for v in model.non_trainable_variables]
    model.compile("adam", "mse")
    model.fit(WORDS, normal(2, 4, 9), epochs=2, verbose=0)
    for name in ("wide", "back", "table", "called"):
        layer = getattr(model.layers[0], name)
        assert np.abs(ops.convert_to_numpy(layer.lora_b)).max() > 0, name
    after = [ops.convert_to_numpy(v) for v in model.non_trainable_variables]
    assert all(
        (one == two).all() for one, two in zip(before, after, strict=True)
    )


def test_a_bank_refuses_it_by_name_and_serves_the_others(tmp_path):
    def saved(name, targets):
        model = fill(
            keras_lora.inject(reading(), LoRAConfig(2, targets=targets))
        )
        keras_lora.save_adapter(model, tmp_path / name)
        return outputs_of(model, WORDS)

    saved("read", list(READ))
    called = saved("called", ["called"])
    base = reading()
    plain = outputs_of(base, WORDS)
    bank = AdapterBank(base, rank=2)
    with pytest.raises(ValueError, match="without calling it") as caught:
        bank.load("read", tmp_path / "read")
    for name in READ:
        assert f"block/{name}: " in str(caught.value)
    bank.load("called", tmp_path / "called")
    got = np.asarray(bank.predict(WORDS, ["called", None]))
    assert difference([got[:1]], [called[0][:1]]) < 1e-5
    assert difference([got[1:]], [plain[0][1:]]) < 1e-5


def test_gemma_4_trains_all_of_its_adapters_and_merges():
    base = tiny("gemma4")
    x = {
        "token_ids": WORDS,
        "padding_mask": np.ones_like(WORDS),
        "position_ids": np.tile(np.arange(4, dtype="int32"), (2, 1)),
    }
    plain = outputs_of(base, x)
    keras_lora.inject(base, LoRAConfig(2))
    y = normal(*plain[0].shape)
    base.compile("adam", "mse")
    base.fit(x, y, epochs=2, verbose=0)
    hosts = hosts_of(base)
    assert len(hosts) == 14
    for layer in hosts:
        assert np.abs(ops.convert_to_numpy(layer.lora_b)).max() > 0, layer.path
    adapted = outputs_of(fill(base), x)
    assert difference(adapted, plain) > 1e-2
    keras_lora.merge(base)
    assert difference(outputs_of(base, x), adapted) < 1e-4
