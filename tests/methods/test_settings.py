"""Settings: NumPy's numbers, names of starts, and what layers give of them."""

import keras
import numpy as np
import pytest

import keras_lora
from keras_lora import AdapterConfig, LoRAConfig
from tests.helpers import fill, normal, numpy_of


def small_base():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(5), keras.layers.Dense(4)]
    )


@pytest.mark.parametrize("integer", [np.int64, np.int32, np.uint8])
def test_numpy_numbers_are_numbers(tmp_path, integer):
    """All the way: settings, a file whose bytes are the same, a bank."""
    files = []
    for name, rank, alpha in (
        ("python", 2, 6.0),
        ("numpy", integer(2), np.float32(6)),
    ):
        base = small_base()
        config = LoRAConfig(
            rank, alpha, layers=None, rank_pattern={"dense_1": integer(3)}
        )
        keras_lora.inject(base, config)
        fill(base)
        keras_lora.save_adapter(base, tmp_path / name)
        files.append((tmp_path / name).read_bytes())
        keras_lora.eject(base)
        bank = keras_lora.AdapterBank(base, capacity=integer(2), rank=rank)
        bank.load("a", tmp_path / name)
        x = normal(3, 6)
        moved = bank.predict(x, "a", batch_size=integer(2)) - numpy_of(base(x))
        assert np.abs(moved).max() > 1e-2
        bank.save(tmp_path / f"{name}-bank")
        bank.detach()
    assert files[0] == files[1]
    bank = keras_lora.AdapterBank.restore(small_base(), tmp_path / "numpy-bank")
    assert bank.names == ["a"]


def test_numpy_numbers_are_a_bottleneck_s_too(tmp_path):
    base = small_base()
    config = AdapterConfig(np.int64(3), np.float64(8), targets=["dense"])
    keras_lora.inject(base, config)
    keras_lora.save_adapter(base, tmp_path / "task")
    info = keras_lora.inspect_adapter(tmp_path / "task")
    assert info.layers["dense"]["bottleneck"] == 3


@pytest.mark.parametrize(
    "value", [np.float32("nan"), np.float64("inf"), np.int64(-1), np.bool_(1)]
)
def test_numpy_numbers_out_of_range_are_refused(value):
    with pytest.raises(ValueError, match="`alpha` must be a finite number"):
        LoRAConfig(2, value)


@pytest.mark.parametrize(
    ("name", "older"), [("pissa", "svd"), ("milora", "svd-minor")]
)
def test_a_start_has_the_field_s_name_and_an_older_one(name, older):
    factors = []
    for init in (name, older):
        base = small_base()
        keras_lora.inject(base, LoRAConfig(2, init=init))
        factors.append([numpy_of(v) for v in base.trainable_variables])
    for one, two in zip(*factors, strict=True):
        np.testing.assert_array_equal(one, two)
    assert np.abs(factors[0][1]).max() > 0  # `B` starts at no zero


def test_layers_give_their_arguments():
    layer = keras_lora.LoRADense(4, rank=3, alpha=5, dropout=0.2)
    assert (layer.rank, layer.alpha, layer.dropout) == (3, 5.0, 0.2)
    assert keras_lora.DoRADense(4, rank=3).rank == 3
    assert keras_lora.LoRAEmbedding(9, 4, rank=2, alpha=7).alpha == 7.0
    einsum = keras_lora.LoRAEinsumDense("ab,bc->ac", 4, rank=2)
    assert einsum.rank == 2
    adapter = keras_lora.Adapter(bottleneck=3, activation="gelu")
    assert (adapter.bottleneck, adapter.activation) == (3, "gelu")
    assert (adapter.reduction_factor, adapter.layer_norm) == (16.0, False)


def test_injected_layers_give_them_too():
    base = small_base()
    keras_lora.inject(base, LoRAConfig(2, alpha=6))
    assert (base.layers[0].rank, base.layers[0].alpha) == (2, 6.0)
    keras_lora.eject(base)
    assert not hasattr(base.layers[0], "rank")


def test_a_convolution_keeps_its_own_rank():
    layer = keras_lora.LoRAConv2D(4, 3, rank=2, alpha=5)
    y = layer(normal(1, 5, 5, 2))
    assert tuple(y.shape) == (1, 3, 3, 4)
    assert (layer.rank, layer.alpha) == (2, 5.0)
    layer = keras_lora.LoRAConv1D(4, 3, rank=2)
    assert layer.rank == 1 and layer.get_config()["rank"] == 2
