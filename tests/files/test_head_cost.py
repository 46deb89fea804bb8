"""What a stranger's head may cost is known before any of it runs."""

import math
import random

import keras
import numpy as np
import pytest
from keras import layers

import keras_lora
from benchmarks import odd_parts
from benchmarks.costly import costly_file, random_head
from keras_lora import LoRAConfig
from keras_lora.files.head import Head
from keras_lora.files.head_config import build_layer, wrong_head
from keras_lora.files.head_cost import NUMBERS, WORK, head_problems
from keras_lora.files.layer_cost import layer_cost
from tests.helpers import fill, normal, state
from tests.marks import pairs

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def make(units=16):
    keras.utils.set_random_seed(3)
    i = keras.Input((6,))
    y = layers.Dense(8, activation="tanh", name="stem")(i)
    return keras.Model(i, layers.Dense(units, name="branch")(y))


def sequence(width=8, length=None):
    i = keras.Input((length, 6))
    return keras.Model(i, layers.Dense(width, name="stem")(i))


def entry(kind, shape=None, **config):
    return {"class": kind, "config": config, "input_shape": shape}


def dilated(padding):
    """A convolution whose two taps lie far apart."""
    return entry(
        "Conv1D",
        [None, None, 8],
        filters=1,
        kernel_size=2,
        dilation_rate=3 * 10**8,
        padding=padding,
        use_bias=False,
    )


ATTACKS = {
    "two outer products": (
        make(1024),
        [
            entry("Reshape", target_shape=[1024]),
            entry(
                "EinsumDense",
                [None, 1024],
                equation="ab,c->abc",
                output_shape=[1024, 1024],
            ),
            entry(
                "EinsumDense",
                [None, 1024, 1024],
                equation="abc,d->abcd",
                output_shape=[1024, 1024, 1024],
            ),
        ],
        {"@head/1/kernel": [1024], "@head/2/kernel": [1024]},
        ("layer 1 (EinsumDense)", "1,048,576 numbers"),
    ),
    "a pool of a billion": (
        sequence(),
        [entry("AveragePooling1D", pool_size=10**9, padding="same")],
        {},
        ("layer 0 (AveragePooling1D)", "numbers a row"),
    ),
    "a valid pool of a billion": (
        sequence(),
        [entry("AveragePooling1D", pool_size=10**9)],
        {},
        ("layer 0 (AveragePooling1D)", "numbers a row"),
    ),
    "a dilation of 300 million": (
        sequence(),
        [dilated("same")],
        {"@head/0/kernel": [2, 8, 1]},
        ("layer 0 (Conv1D)", "padded input", "numbers a row"),
    ),
    "a causal dilation": (
        sequence(),
        [dilated("causal")],
        {"@head/0/kernel": [2, 8, 1]},
        ("layer 0 (Conv1D)", "padded input"),
    ),
    "windows that read the same": (
        sequence(length=8192),
        [
            entry(
                "MaxPooling1D",
                [None, 8192, 8],
                pool_size=8000,
                strides=1,
                padding="same",
            )
        ],
        {},
        ("layer 0 (MaxPooling1D)", "multiplications or reads"),
    ),
    "a norm that broadcasts": (
        make(4096),
        [
            entry("Reshape", target_shape=[4096, 1]),
            entry("RMSNormalization", [None, 4096, 1], axis=[1]),
        ],
        {"@head/1/scale": [4096]},
        ("layer 1 (RMSNormalization)", "16,777,216 numbers"),
    ),
    "scales that broadcast": (
        make(),
        [
            entry("Reshape", target_shape=[16, 1, 1]),
            entry(
                "Rescaling",
                [None, 16, 1, 1],
                scale=[[[1.0] * 2000]],
                offset=[[[0.0]] * 2000],
            ),
        ],
        {},
        ("layer 1 (Rescaling)", "numbers a row"),
    ),
    "a stride that ends the process": (
        sequence(),
        [
            entry("Reshape", target_shape=[-1, 2, 4]),
            entry(
                "MaxPooling2D",
                [None, None, 2, 4],
                pool_size=1,
                strides=[1, 2**31],
            ),
        ],
        {},
        ("layer 1 (MaxPooling2D)", "2,147,483,648"),
    ),
    "weights that are not there": (
        make(),
        [entry("Dense", units=10**9)],
        {},
        ("layer 0 (Dense)", "no input shape"),
    ),
    "a batch of its own": (
        make(),
        [entry("Dense", [10**9, 16], units=10**9, use_bias=False)],
        {"@head/0/kernel": [16, 1]},
        ("layer 0 (Dense)", "1,000,000,000 numbers"),
    ),
    "many convolutions that are compiled": (
        sequence(length=4),
        [
            entry(
                "Conv1D",
                [None, 4, 8],
                filters=8,
                kernel_size=1,
                groups=2,
                use_bias=False,
            )
        ]
        * 60,
        {f"@head/{n}/kernel": [1, 4, 8] for n in range(60)},
        ("(Conv1D)", "multiplications or reads"),
    ),
}


def attack_file(path, base, entries, weights):
    """An adapter file of a base, with a head that no `save_adapter` wrote."""
    fill(keras_lora.inject(base, LoRAConfig(2)))
    keras_lora.save_adapter(base, path)
    keras_lora.eject(base)
    _, record, _ = odd_parts.parts(path.read_bytes())
    tensors = odd_parts.tensors_of(path.read_bytes())
    record["head"] = {"input": 0, "layers": entries}
    for key, shape in weights.items():
        values = np.full(shape, 0.01, "float32")
        tensors[key] = ("F32", list(shape), values.tobytes())
    path.write_bytes(odd_parts.rebuilt(record, tensors))
    return path


@pytest.mark.parametrize("name", ATTACKS)
def test_a_costly_head_is_refused_at_every_door(tmp_path, name):
    base, entries, weights, words = ATTACKS[name]
    path = attack_file(tmp_path / "bad", base, entries, weights)
    assert path.stat().st_size < 100_000
    before = state(base)
    info = keras_lora.inspect_adapter(path)
    messages = []
    for door in (
        lambda: keras_lora.load_adapter(base, path),
        info.build_head,
    ):
        with pytest.raises(ValueError) as error:
            door()
        messages.append(str(error.value))
    assert state(base) == before
    bank = keras_lora.AdapterBank(base)
    try:
        with pytest.raises(ValueError) as error:
            bank.load("bad", path)
        assert bank.names == []
    finally:
        bank.detach()
    messages.append(str(error.value))
    for message in messages[::2]:
        assert all(word in message for word in words), message
    assert words[0] in messages[1], messages[1]


def test_restore_refuses_a_costly_head(tmp_path):
    base, entries, weights, words = ATTACKS["a dilation of 300 million"]
    fill(keras_lora.inject(base, LoRAConfig(2)))
    keras_lora.save_adapter(base, tmp_path / "good")
    keras_lora.eject(base)
    bank = keras_lora.AdapterBank(base)
    bank.load("a", tmp_path / "good")
    bank.save(tmp_path / "bank")
    bank.detach()
    (file,) = (tmp_path / "bank").glob("a-*.safetensors")
    attack_file(file, base, entries, weights)
    with pytest.raises(ValueError) as error:
        keras_lora.AdapterBank.restore(base, tmp_path / "bank")
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("AveragePooling1D", {"pool_size": 1e9}),
        ("AveragePooling1D", {"pool_size": 1e308, "padding": "same"}),
        ("MaxPooling1D", {"pool_size": [True]}),
        ("MaxPooling1D", {"strides": 0, "pool_size": 2}),
        ("MaxPooling1D", {"pool_size": -1}),
        ("Reshape", {"target_shape": [-2, 4.5]}),
        ("Permute", {"dims": [1, 1]}),
        ("RMSNormalization", {"axis": 9}),
    ],
)
def test_a_setting_that_is_no_size_is_named(kind, config):
    head = {"layers": [entry(kind, [None, 4, 8], **config)]}
    (problem,) = head_problems(head, {}, None)
    (name, _), *_ = config.items()
    assert f"layer 0 ({kind})" in problem and f"`{name}`" in problem


LARGE = {
    "a pooled language model": (
        (512, 4096),
        [layers.GlobalAveragePooling1D(), layers.Dense(1000), layers.Softmax()],
    ),
    "100,000 classes": ((64,), [layers.Dense(100_000), layers.Softmax()]),
    "convolutions over images": (
        (224, 224, 64),
        [
            layers.Conv2D(64, 3, padding="same"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPooling2D(3, 2, padding="same"),
            layers.Conv2D(16, 3, dilation_rate=2, padding="same"),
            layers.GlobalMaxPooling2D(),
            layers.Dense(10),
        ],
    ),
    "a tagger": (
        (512, 1024),
        [
            layers.Dropout(0.1),
            layers.Dense(1024, activation="gelu"),
            layers.LayerNormalization(),
            layers.Dense(40),
        ],
    ),
    "a projection of heads": (
        (128, 12, 64),
        [layers.EinsumDense("abcd,cde->abe", (None, 768), bias_axes="e")],
    ),
    "a head with LoRA of Keras's own": (
        (1024,),
        [layers.Dense(1024, lora_rank=8), layers.Dense(2)],
    ),
}


@pytest.mark.parametrize("name", LARGE)
def test_a_large_honest_head_is_within_the_limits(name):
    shape, head = LARGE[name]
    model = keras.Sequential([keras.Input(shape), *head])
    found = Head(0, tuple(model.layers))
    config = found.config()
    assert config is not None
    weights = {k: tuple(v.shape) for k, v in found.variables().items()}
    assert wrong_head(config, weights, (None, *shape)) == []


def test_100_000_classes_go_through_every_door(tmp_path):
    base = make()
    fill(keras_lora.inject(base, LoRAConfig(2)))
    model = keras.Sequential([base, layers.Dense(100_000), layers.Softmax()])
    keras_lora.save_adapter(model, tmp_path / "a")
    expected = np.asarray(model.predict_on_batch(normal(2, 6)))
    keras_lora.load_adapter(model, tmp_path / "a")
    keras_lora.eject(base)
    bank = keras_lora.AdapterBank(base)
    bank.load("a", tmp_path / "a")
    found = bank.predict(normal(2, 6), adapter="a")
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)
    bank.detach()


def test_a_head_that_no_reader_would_build_is_not_saved_as_one(tmp_path):
    """Its weights still load into a model like the one that was saved."""
    base = make()
    fill(keras_lora.inject(base, LoRAConfig(2)))
    head = [
        layers.Dense(16),
        layers.Reshape((16, 1)),
        layers.AveragePooling1D(10**7, padding="same"),
    ]
    model = keras.Sequential([base, *head])
    keras_lora.save_adapter(model, tmp_path / "a")
    info = keras_lora.inspect_adapter(tmp_path / "a")
    assert info.head is None and info.outside
    kernel = head[0].kernel
    before = keras.ops.convert_to_numpy(kernel)
    kernel.assign(before + 1)
    keras_lora.load_adapter(model, tmp_path / "a")
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(kernel), before)


def test_a_length_that_a_call_brings_is_counted_before_it_runs(tmp_path):
    """Windows over a whole open axis: their work goes with its square."""
    base = sequence(width=4)
    pool = entry("MaxPooling1D", pool_size=1500, strides=1, padding="same")
    path = attack_file(tmp_path / "a", base, [pool], {})
    bank = keras_lora.AdapterBank(base)
    bank.load("a", path)
    assert bank.predict(normal(1, 64, 6), adapter="a").shape == (1, 64, 4)
    with pytest.raises(ValueError, match=r"layer 0 \(MaxPooling1D\)"):
        bank.predict(normal(1, 9000, 6), adapter="a")
    bank.detach()


@pytest.mark.parametrize("seed", pairs(range(15), range(150)))
def test_costs_tell_the_shapes_that_keras_makes(seed):
    """Random heads of small sizes, layer by layer as they really run."""
    chance = random.Random(seed)
    shape, head, weights = random_head(chance, hostile=False)
    if head_problems({"layers": head}, weights, (None, *shape)):
        pytest.skip("refused")
    y = np.random.default_rng(seed).normal(size=(1, *shape)).astype("float32")
    counted = y.shape
    for number, made in enumerate(head):
        tensors = {k: np.full(s, 0.1, "float32") for k, s in weights.items()}
        try:
            layer = build_layer(made, number, tensors)
            y = layer(y)
        except Exception:
            break  # what Keras refuses costs nothing
        if 0 in y.shape:
            break
        found = layer_cost(made["class"], made["config"], counted)
        assert tuple(y.shape) == found.shape, made
        counted = found.shape


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    base = sequence(width=8, length=8)
    path = tmp_path_factory.mktemp("cost") / "base"
    fill(keras_lora.inject(base, LoRAConfig(2)))
    keras_lora.save_adapter(base, path)
    keras_lora.eject(base)
    return keras_lora.AdapterBank(base), path.read_bytes()


def test_random_heads_stay_within_the_limits_or_are_named(served, tmp_path):
    """`python -m benchmarks.fuzz --costs 1000` measures what they take."""
    bank, good = served
    path = tmp_path / "input"
    taken = 0
    for seed in range(60):
        chance = random.Random(seed)
        head, weights = random_head(chance, (8, 8))[1:]
        path.write_bytes(costly_file(good, head, weights))
        try:
            bank.load("a", path)
        except ValueError as error:
            assert "layer " in str(error) or "its head" in str(error)
            continue
        taken += 1
        shape, work = (1, 8, 8), 0
        for made in head:
            cost = layer_cost(made["class"], made["config"], shape)
            shape, work = cost.shape, work + cost.work
            assert max(math.prod(shape), cost.padded) <= NUMBERS
        assert work <= WORK
        bank.predict(normal(32, 8, 6), adapter="a")
    assert taken > 5
