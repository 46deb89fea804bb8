"""EfficientNet-Lite0 in Keras: its layers, its weights, what torch gives."""

import keras
import numpy as np
import pytest

import keras_lora
from app.images import base as base_module
from app.texts.packages import EFFICIENTNET
from tests.app.efficientnet_reference import OUTPUT, SIZES, picture

REFERENCE_ATOL = 1e-4
"""Of logits between -4 and 4."""


@pytest.fixture(scope="module")
def small():
    """The base with random weights, for small pictures."""
    keras.utils.set_random_seed(0)
    return base_module.build_base(32)


def test_the_base_has_layers_whose_names_say_what_they_do(small):
    assert small.output_shape == (None, 1280)
    assert small.count_params() == 3_413_024
    find = keras_lora.find_targets
    pointwise = find(small, r"block\d+_(expand|project)")
    assert len(pointwise) == 15 + 16
    assert all(small.get_layer(n).kernel_size == (1, 1) for n in pointwise)
    outputs = [small.get_layer(f"block{n}_output") for n in range(16)]
    assert sum(isinstance(x, keras.layers.Add) for x in outputs) == 9
    widths = [16, 24, 24, 40, 40] + [80] * 3 + [112] * 3 + [192] * 4 + [320]
    assert [layer.output.shape[-1] for layer in outputs] == widths


def published(base) -> dict[str, np.ndarray]:
    """A base's weights as they would be published."""
    tensors = {"_bn0.num_batches_tracked": np.int64(0)}
    for variable in base.weights:
        array = keras.ops.convert_to_numpy(variable)
        (name,) = (
            name
            for path, name in base_module._sources(base)
            if path == variable.path
        )
        if "_depthwise/" in variable.path:
            array = array.transpose(2, 3, 0, 1)
        elif array.ndim == 4:
            array = array.transpose(3, 2, 0, 1)
        tensors[name] = array.T if array.ndim == 2 else array
    return tensors


def test_published_weights_make_the_same_base_again(small):
    keras.utils.set_random_seed(1)
    other = base_module.build_base(32)
    x = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3))
    wanted = keras.ops.convert_to_numpy(small(x))
    assert np.ptp(wanted) > 0
    base_module.port_weights(other, published(small))
    found = keras.ops.convert_to_numpy(other(x))
    np.testing.assert_array_equal(found, wanted)


def test_weights_that_do_not_fit_are_all_named(small):
    tensors = published(small)
    del tensors["_blocks.3._bn2.bias"]
    tensors["_blocks.3._depthwise_conv.weight"] = np.zeros((240, 1, 5, 4))
    tensors["extra"] = np.zeros(1)
    before = [keras.ops.convert_to_numpy(v) for v in small.weights]
    with pytest.raises(ValueError) as caught:
        base_module.port_weights(small, tensors)
    for words in (
        "missing tensor _blocks.3._bn2.bias",
        "(240, 1, 5, 4) for block3_depthwise/kernel",
        "unused tensor extra",
    ):
        assert words in str(caught.value)
    for old, variable in zip(before, small.weights, strict=True):
        np.testing.assert_array_equal(variable, old)


CONFIGS = {
    "LoRA": keras_lora.LoRAConfig(rank=2, targets=["block15_expand"]),
    "bottlenecks": keras_lora.AdapterConfig(
        bottleneck=4, targets=["block14_output"]
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_norms_of_the_base_do_not_move_while_an_adapter_trains(small, name):
    before = [keras.ops.convert_to_numpy(v) for v in small.weights]
    keras_lora.inject(small, CONFIGS[name])
    head = keras.layers.Dense(10, name="head")
    model = keras.Model(small.input, head(small(small.input)))
    model.compile("adam", "mse", jit_compile=False)
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (8, 32, 32, 3)).astype("uint8")
    start = model.predict_on_batch(x)
    model.fit(x, rng.random((8, 10)), epochs=3, verbose=0)
    assert not np.allclose(model.predict_on_batch(x), start)
    keras_lora.eject(small)
    for old, variable in zip(before, small.weights, strict=True):
        np.testing.assert_array_equal(variable, old)


@pytest.mark.real_base
@pytest.mark.parametrize("size", SIZES)
def test_the_port_gives_what_torch_gives(size):
    base = base_module.load_base(size, top=True)
    with np.load(OUTPUT) as reference:
        wanted = reference[f"logits_{size}"]
        found = base.predict(picture(reference["tiles"], size), verbose=0)
    assert np.ptp(wanted) > 2
    difference = np.abs(found - wanted).max()
    print(f"largest difference at {size}: {difference:.1e}")
    assert difference < REFERENCE_ATOL
    assert np.array_equal(found.argmax(-1), wanted.argmax(-1))


@pytest.mark.real_base
def test_the_base_sees_what_is_on_photographs():
    samples = pytest.importorskip("sklearn.datasets").load_sample_images()
    photographs = np.stack([im[:, 106:533] for im in samples.images])
    resized = keras.ops.image.resize(
        photographs.astype("float32"), (224, 224), antialias=True
    )
    logits = base_module.load_base(top=True).predict(resized, verbose=0)
    palace, daisy = 698, 985
    assert logits.argmax(-1).tolist() == [palace, daisy]


def test_the_pinned_hashes_are_sha256():
    for text in (EFFICIENTNET.sha256, *EFFICIENTNET.checks.values()):
        assert len(text) == 64 and int(text, 16)
