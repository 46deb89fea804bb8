"""The adapter file: its format, how it is written, and the head in it."""

import json
import os
import stat
import struct

import keras
import numpy as np
import pytest
from keras import layers
from safetensors import safe_open
from safetensors.numpy import save_file

import keras_lora
from keras_lora import AdapterConfig, LoRAConfig
from keras_lora.files import container
from keras_lora.files import format as adapter_file
from tests.helpers import fill, normal, numpy_of, refused

BACKEND = keras.backend.backend()


def make(dtype=None):
    keras.utils.set_random_seed(3)
    i = keras.Input((6,))
    y = layers.Dense(8, activation="tanh", name="stem", dtype=dtype)(i)
    y = layers.BatchNormalization(name="norm", dtype=dtype)(y)
    return keras.Model(i, layers.Dense(4, name="branch", dtype=dtype)(y))


def adapted(config=None, head=(), **options):
    base = keras_lora.inject(make(), config or LoRAConfig(2), **options)
    model = keras.Sequential([base, *head]) if head else base
    return fill(model)


def header(path):
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + size])


def contents(path):
    with safe_open(path, "numpy") as file:
        record = json.loads(file.metadata()[container.METADATA_KEY])
        return {k: file.get_tensor(k) for k in file.keys()}, record  # noqa: SIM118


def rewritten(path, tensors, record):
    bad = path.with_name("rewritten.safetensors")
    save_file(tensors, bad, {container.METADATA_KEY: json.dumps(record)})
    return bad


def test_a_file_holds_what_was_trained_and_nothing_of_the_base(tmp_path):
    path = tmp_path / "task.safetensors"
    model = adapted(
        LoRAConfig(2, alpha=3, rank_pattern={"stem": 3}),
        [layers.Dropout(0.1), layers.Dense(5, name="top")],
        train=["norm"],
    )
    keras_lora.save_adapter(model, path)
    tensors, record = contents(path)
    assert {k: v.shape for k, v in tensors.items()} == {
        "stem/lora_a": (6, 3),
        "stem/lora_b": (3, 8),
        "branch/lora_a": (8, 2),
        "branch/lora_b": (2, 4),
        "norm/gamma": (8,),
        "norm/beta": (8,),
        "norm/moving_mean": (8,),
        "norm/moving_variance": (8,),
        "@head/1/kernel": (4, 5),
        "@head/1/bias": (5,),
    }
    assert record["format"] == 1
    assert record["version"] == keras_lora.__version__
    assert record["layers"]["stem"] == {
        "method": "lora",
        "rank": 3,
        "alpha": 3.0,
        "dropout": 0.0,
    }
    assert record["layers"]["branch"]["rank"] == 2
    assert record["trained"] == ["norm"]
    assert record["outside"] == []
    assert set(record["base"]["variables"]) == {
        "stem/kernel",
        "stem/bias",
        "branch/kernel",
        "branch/bias",
    }
    assert record["base"]["outputs"] == [["branch", 0]]
    classes = [layer["class"] for layer in record["head"]["layers"]]
    assert classes == ["Dropout", "Dense"]
    assert list(header(path)["__metadata__"]) == [container.METADATA_KEY]


def test_equal_content_gives_equal_bytes(tmp_path):
    files = []
    for number in range(2):
        keras.utils.clear_session()
        for _ in range(number):
            layers.Dense(3)
        model = adapted(LoRAConfig(2), [layers.Dense(5)])
        model.layers[-1].kernel.assign(normal(4, 5))
        files.append(tmp_path / f"{number}")
        keras_lora.save_adapter(model, files[-1])
        keras_lora.save_adapter(model, files[-1])
    assert files[0].read_bytes() == files[1].read_bytes()
    assert len(list(tmp_path.iterdir())) == 2


def test_a_loaded_adapter_is_saved_to_the_same_bytes(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    keras_lora.save_adapter(adapted(LoRAConfig(2), [layers.Dense(5)]), one)
    outer = keras.Sequential([make(), layers.Dense(5)])
    keras_lora.load_adapter(outer, one)
    keras_lora.save_adapter(outer, two)
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("call", ["open", "fdopen", "fsync", "replace"])
def test_a_crash_while_writing_leaves_the_old_file(tmp_path, monkeypatch, call):
    path = tmp_path / "task"
    keras_lora.save_adapter(adapted(), path)
    old = path.read_bytes()
    for error, expected in (
        (OSError(28, "No space left on device"), ValueError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ):

        def fail(*args, error=error, **kwargs):
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(os, call, fail)
            with pytest.raises(expected) as caught:
                keras_lora.save_adapter(fill(adapted(), seed=2), path)
        if expected is ValueError:
            assert "No space left on device" in str(caught.value)
        assert path.read_bytes() == old
        assert os.listdir(tmp_path) == ["task"]


@pytest.mark.skipif(os.name == "nt", reason="folders have no such modes")
def test_a_file_has_the_mode_of_any_new_file(tmp_path):
    keras_lora.save_adapter(adapted(), tmp_path / "task")
    (tmp_path / "other").touch()
    modes = {stat.S_IMODE(f.stat().st_mode) for f in tmp_path.iterdir()}
    assert len(modes) == 1


def test_info_says_what_the_file_holds(tmp_path):
    path = tmp_path / "task.safetensors"
    model = adapted(
        AdapterConfig(3, targets=["stem", "norm"], layer_norm=True),
        [layers.Dense(5)],
    )
    keras_lora.save_adapter(model, path)
    info = keras_lora.inspect_adapter(path)
    assert keras_lora.inspect_adapter(str(path)) == info
    assert info.path == str(path)
    assert info.bytes == path.stat().st_size
    assert info.version == keras_lora.__version__
    assert info.methods == ("bottleneck",)
    assert list(info.layers) == ["norm", "stem"]
    assert info.layers["stem"]["width"] == 8
    assert info.layers["stem"]["layer_norm"] is True
    assert info.trained == info.outside == ()
    assert info.head["input"] == 0
    assert info.base["sampled"] is False
    assert info.tensors["stem/down_kernel"] == ("F32", (8, 3))
    trained = sum(int(np.prod(v.shape)) for v in model.trainable_weights)
    assert info.parameters == trained
    text = str(info)
    for word in ("bottleneck 3", "head: Dense", f"{info.bytes:,} bytes"):
        assert word in text


def test_inspecting_loads_no_tensor(tmp_path, monkeypatch):
    path = tmp_path / "task.safetensors"
    keras_lora.save_adapter(adapted(), path)
    info = keras_lora.inspect_adapter(path)
    data = bytearray(path.read_bytes())
    size = sum(4 * int(np.prod(shape)) for _, shape in info.tensors.values())
    data[-size:] = b"\xff" * size
    path.write_bytes(data)
    monkeypatch.setattr(
        adapter_file, "read_tensors", lambda info: pytest.fail("was read")
    )
    assert keras_lora.inspect_adapter(path) == info


def test_a_layer_outside_that_is_no_head_loads_into_the_same_model(tmp_path):
    def outer(base):
        i = keras.Input((6,))
        y = layers.Dense(4, name="bypass")(i)
        return keras.Model(i, layers.Add()([base(i), y]))

    path = tmp_path / "task"
    model = fill(outer(keras_lora.inject(make(), LoRAConfig(2))))
    keras_lora.save_adapter(model, path)
    info = keras_lora.inspect_adapter(path)
    assert info.head is None
    assert info.outside == ("bypass",)
    assert "@outside/bypass/kernel" in info.tensors
    with pytest.raises(ValueError, match="no head that can be rebuilt"):
        info.build_head()
    again = outer(make())
    keras_lora.load_adapter(again, path)
    x = normal(3, 6)
    np.testing.assert_array_equal(numpy_of(again(x)), numpy_of(model(x)))


def test_weights_outside_with_nowhere_to_go_are_named_once_by_layer(tmp_path):
    i = keras.Input((6,))
    y = layers.Dense(4, name="bypass")(i)
    base = keras_lora.inject(make(), LoRAConfig(2))
    model = fill(keras.Model(i, layers.Add()([base(i), y])))
    keras_lora.save_adapter(model, tmp_path / "task")
    with pytest.raises(ValueError, match="'bypass' is not in this") as error:
        keras_lora.load_adapter(make(), tmp_path / "task")
    assert str(error.value).count("\n- ") == 1
    assert "unexpected" not in str(error.value)


class TwoLayers(keras.Model):
    """A head of two layers of one shape, in a Sequential or by themselves."""

    def __init__(self, base, in_order):
        super().__init__()
        self.base = base
        last, first = layers.Dense(4), layers.Dense(4, activation="tanh")
        if not in_order:
            self.last, self.first = last, first
        self.head = keras.Sequential([first, last])

    def call(self, x):
        return self.head(self.base(x))


def test_layers_of_a_head_are_not_taken_for_one_another(tmp_path):
    x = normal(3, 6)
    head = [layers.Dense(4, activation="tanh"), layers.Dense(4)]
    model = adapted(head=head)
    keras_lora.save_adapter(model, tmp_path / "task")
    other = TwoLayers(make(), in_order=False)
    plain = numpy_of(other(x))
    refused(
        lambda: keras_lora.load_adapter(other, tmp_path / "task"),
        "which of them",
        "Sequential",
    )
    np.testing.assert_array_equal(numpy_of(other(x)), plain)
    other = TwoLayers(make(), in_order=True)
    other(x)
    keras_lora.load_adapter(other, tmp_path / "task")
    np.testing.assert_array_equal(numpy_of(other(x)), numpy_of(model(x)))


HEADS = {
    "dense": lambda: [layers.Dense(5, activation="softmax")],
    "chain": lambda: [
        layers.LayerNormalization(),
        layers.Dropout(0.3),
        layers.Dense(5, activation="gelu"),
        layers.BatchNormalization(),
        layers.Dense(2),
    ],
    "nested": lambda: [
        keras.Sequential([layers.Dense(5), layers.PReLU()]),
        layers.Dense(2, use_bias=False),
    ],
    "shapes": lambda: [
        layers.Reshape((4, 1)),
        layers.Conv1D(3, 2, padding="same"),
        layers.Permute((2, 1)),
        layers.EinsumDense("abc,cd->abd", (None, 2), bias_axes="d"),
        layers.Flatten(),
    ],
}


@pytest.mark.parametrize("name", HEADS)
def test_a_head_is_built_from_the_file_alone(tmp_path, name):
    path = tmp_path / "task"
    model = adapted(head=HEADS[name]())
    model(normal(2, 6))
    for variable in model.layers[-1].weights:
        variable.assign(normal(*variable.shape, seed=5) ** 2)
    keras_lora.save_adapter(model, path)
    base = keras_lora.load_adapter(make(), path, head=False)
    head = keras_lora.inspect_adapter(path).build_head()
    x = normal(3, 6)
    np.testing.assert_allclose(
        numpy_of(head(base(x))), numpy_of(model(x)), rtol=1e-6, atol=1e-6
    )
    assert len(head.trainable_weights) == sum(
        len(layer.trainable_weights) for layer in model.layers[1:]
    )


def test_a_head_is_initialized_and_regularized_by_nothing_in_the_file(tmp_path):
    path = tmp_path / "task"
    head = layers.Dense(
        5,
        kernel_initializer=keras.initializers.Constant(3.0),
        kernel_regularizer="l2",
        kernel_constraint="non_neg",
    )
    keras_lora.save_adapter(adapted(head=[head]), path)
    config = keras_lora.inspect_adapter(path).head["layers"][0]["config"]
    assert not [key for key in config if key.startswith("kernel_")]
    np.testing.assert_array_equal(
        numpy_of(
            keras_lora.inspect_adapter(path).build_head().layers[0].kernel
        ),
        numpy_of(head.kernel),
    )


@keras.saving.register_keras_serializable(package="tests")
class OwnDense(layers.Dense):
    """A layer that no file may name."""


@pytest.mark.parametrize(
    "head",
    [
        lambda: layers.Lambda(lambda x: x * 2.0, output_shape=(4,)),
        lambda: OwnDense(5),
        lambda: layers.Dense(5, activation=lambda x: x * 2.0),
    ],
    ids=["Lambda", "a class of one's own", "a function of one's own"],
)
def test_a_head_that_is_not_plain_is_not_stored_as_one(tmp_path, head):
    path = tmp_path / "task"
    model = adapted(head=[head(), layers.Dense(2)])
    keras_lora.save_adapter(model, path)
    info = keras_lora.inspect_adapter(path)
    assert info.head is None
    assert info.outside
    again = keras.Sequential([make(), head(), layers.Dense(2)])
    again.build((None, 6))
    keras_lora.load_adapter(again, path)
    x = normal(3, 6)
    np.testing.assert_array_equal(numpy_of(again(x)), numpy_of(model(x)))


def forged(tmp_path, **changes):
    """The file of one Dense head, with parts of its record replaced."""
    path = tmp_path / "task"
    keras_lora.save_adapter(adapted(head=[layers.Dense(5)]), path)
    tensors, record = contents(path)
    entry = record["head"]["layers"][0]
    config = changes.pop("config", {})
    entry["config"].update(config)
    entry.update(changes)
    return rewritten(path, tensors, record)


@pytest.mark.parametrize(
    "name",
    ["Lambda", "os.system", "keras.layers.Dense", "TorchModuleWrapper", ""],
)
def test_a_file_names_no_class_outside_of_the_list(tmp_path, name):
    info = keras_lora.inspect_adapter(forged(tmp_path, **{"class": name}))
    with pytest.raises(ValueError, match="is not allowed"):
        info.build_head()


@pytest.mark.parametrize(
    "config",
    [
        {"activation": {"class_name": "function", "config": "os.system"}},
        {"kernel_initializer": {"class_name": "Zeros", "config": {}}},
        {"name": ["a", {"b": "c"}]},
        {"unknown": 3},
        {"units": "five"},
        {"units": 10**12},
        {"units": -5},
        {"units": 6},
        {"activation": "no_such"},
        {"dtype": "no_such"},
        {"dtype": 3},
        {"lora_rank": 2},
        {"use_bias": False},
    ],
    ids=str,
)
def test_a_forged_config_is_refused(tmp_path, config):
    info = keras_lora.inspect_adapter(forged(tmp_path, config=config))
    with pytest.raises(ValueError, match="was not built"):
        info.build_head()


@pytest.mark.parametrize(
    "shape",
    [
        [None, 10**12],
        [None, 5],
        ["a"],
        [],
        [None],
        [None, -4],
        None,
        [None, {}],
    ],
    ids=str,
)
def test_a_forged_input_shape_is_refused(tmp_path, shape):
    info = keras_lora.inspect_adapter(forged(tmp_path, input_shape=shape))
    with pytest.raises(ValueError, match="was not built"):
        info.build_head()


def test_nothing_of_a_claimed_size_is_allocated(tmp_path):
    path = tmp_path / "task"
    model = adapted(head=[layers.Reshape((4, 1)), layers.Conv1D(3, 2)])
    keras_lora.save_adapter(model, path)
    for field, value in (("filters", 12), ("kernel_size", [10**11])):
        tensors, record = contents(path)
        record["head"]["layers"][1]["config"][field] = value
        info = keras_lora.inspect_adapter(rewritten(path, tensors, record))
        with pytest.raises(ValueError, match="was not built"):
            info.build_head()
    tensors, record = contents(path)
    record["head"]["layers"][1]["class"] = "EinsumDense"
    record["head"]["layers"][1]["config"] = {
        "equation": "abc,cd->abd",
        "output_shape": [None, 10**12],
    }
    info = keras_lora.inspect_adapter(rewritten(path, tensors, record))
    with pytest.raises(ValueError, match="was not built"):
        info.build_head()


@pytest.mark.parametrize(
    "head", [3, [], {}, {"input": -1, "layers": []}, {"input": True}]
)
def test_a_malformed_head_is_refused(tmp_path, head):
    path = tmp_path / "task"
    keras_lora.save_adapter(adapted(head=[layers.Dense(5)]), path)
    tensors, record = contents(path)
    record["head"] = head
    with pytest.raises(ValueError, match="`head` is malformed"):
        keras_lora.inspect_adapter(rewritten(path, tensors, record))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "mixed_bfloat16"])
@pytest.mark.parametrize("way", ["head", "norm"])
def test_values_of_16_bits_survive_a_file(tmp_path, dtype, way):
    path = tmp_path / "task"
    if way == "head":
        model = adapted(head=[layers.Dense(5, dtype=dtype)])
        again = keras.Sequential([make(), layers.Dense(5, dtype=dtype)])
        again.build((None, 6))
    else:
        again = make(dtype)
        model = keras_lora.inject(make(dtype), LoRAConfig(2), train=["norm"])
        norm = fill(model).get_layer("norm")
        norm.gamma.assign(1 + normal(8) / 3)
        norm.moving_mean.assign(normal(8) / 3)
    keras_lora.save_adapter(model, path)
    keras_lora.load_adapter(again, path)
    x = normal(3, 6)
    np.testing.assert_array_equal(numpy_of(again(x)), numpy_of(model(x)))
    for ours, theirs in zip(again.weights, model.weights, strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(numpy_of(ours), numpy_of(theirs))
    if way == "head":
        head = keras_lora.inspect_adapter(path).build_head()
        assert head.layers[0].dtype_policy.name == dtype
        np.testing.assert_array_equal(
            numpy_of(head.layers[0].kernel),
            numpy_of(model.layers[-1].kernel),
        )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_values_of_16_bits_that_are_not_finite_are_found(tmp_path, dtype):
    model = adapted(head=[layers.Dense(5, dtype=dtype)])
    model.layers[-1].bias.assign(np.full(5, np.nan))
    with pytest.raises(ValueError, match="'@head/0/bias' is not finite"):
        keras_lora.save_adapter(model, tmp_path / "task")
