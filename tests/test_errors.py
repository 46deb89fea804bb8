"""What is refused, in what words, and that a refusal changes nothing."""

import json
import os

import keras
import numpy as np
import pytest
from keras import layers, ops
from safetensors import safe_open
from safetensors.numpy import save_file

import keras_lora
from keras_lora import AdapterConfig, LoRAConfig
from keras_lora.files import container
from tests.helpers import fill, normal, numpy_of, state

BACKEND = keras.backend.backend()


def make(units=8, seed=3):
    """A compiled base with two blocks of layers, alike for equal arguments."""
    keras.utils.set_random_seed(seed)
    i = keras.Input((6,))
    y = layers.Dense(units, activation="tanh", name="stem")(i)
    y = layers.BatchNormalization(name="norm")(y)
    y = layers.Dense(units, name="branch")(y)
    model = keras.Model(i, layers.Dense(3, name="logits")(y))
    model.compile("sgd", "mse")
    return model


@pytest.fixture
def base():
    return make()


@pytest.fixture
def file(tmp_path):
    """An adapter for `make()`, with a trained layer in the base."""
    model = keras_lora.inject(make(), LoRAConfig(2), train=["logits"])
    fill(model)
    keras_lora.save_adapter(model, tmp_path / "good.safetensors")
    return tmp_path / "good.safetensors"


def refused(action, model, *words):
    """Runs `action`, which is refused in `words` and changes nothing."""
    before = state(model)
    with pytest.raises(ValueError) as error:
        action()
    message = str(error.value)
    for word in words:
        assert word in message, message
    assert state(model) == before
    return message


def injecting(model, *words, config=None, **options):
    config = config or LoRAConfig(2)
    return refused(
        lambda: keras_lora.inject(model, config, **options), model, *words
    )


def test_inject_lists_everything_wrong_at_once(base):
    config = LoRAConfig(
        2,
        targets=["stem", "brunch", "norm", "logits"],
        rank_pattern={"nothing": 4},
        alpha_pattern={"nowhere": 4},
    )
    injecting(
        base,
        "target 'brunch' matches no layer",
        "target 'norm' is a BatchNormalization, no LoRA layer",
        "target 'logits' is in `train` too",
        "train: 'haed' matches no layer",
        "rank_pattern: 'nothing' matches none",
        "alpha_pattern: 'nowhere' matches none",
        "Available: stem, branch",
        "Layers: ",
        config=config,
        train=["haed", "logits"],
    )


def test_a_model_that_is_not_built_is_refused():
    model = keras.Sequential([layers.Dense(3)])
    injecting(model, "not built")
    with pytest.raises(ValueError, match="not built"):
        keras_lora.find_targets(model)


def test_a_part_that_is_not_built_is_refused():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.used = layers.Dense(3)
            self.unused = layers.Dense(3)

        def call(self, x):
            return self.used(x)

    model = Model()
    model(normal(2, 4))
    injecting(model, "not built", "dense_1")


def test_an_adapted_model_is_refused(base):
    fill(keras_lora.inject(base, LoRAConfig(2)))
    base.compile("sgd", "mse")
    injecting(base, "adapted already", "eject", "stem")
    outer = keras.Sequential([base, layers.Dense(2)])
    injecting(outer, "adapted already")


def test_a_layer_built_by_hand_is_refused():
    i = keras.Input((4,))
    y = keras_lora.LoRADense(3, rank=2)(i)
    model = keras.Model(i, layers.Dense(2)(y))
    injecting(model, "lo_ra_dense", "has adapter weights of its own")
    for action in (
        keras_lora.eject,
        keras_lora.merge,
        keras_lora.summary,
        lambda m: keras_lora.save_adapter(m, "never"),
    ):
        refused(lambda a=action: a(model), model, "built by hand")
    assert not os.path.exists("never")


@pytest.mark.parametrize("rank", [0, -1, True, 2.0, "2", None, np.int64(0)])
def test_a_rank_that_is_no_int_above_zero_is_refused(rank):
    with pytest.raises(ValueError, match="`rank` must be an int above 0"):
        LoRAConfig(rank)
    with pytest.raises(ValueError, match=r"rank_pattern\['a'\]"):
        LoRAConfig(rank_pattern={"a": rank})


def test_a_config_of_another_kind_is_refused(base):
    kinds = "LoRAConfig, DoRAConfig, IA3Config, AdapterConfig or SideConfig"
    injecting(base, f"a {kinds}", config="lora")


def test_no_targets_are_refused():
    model = keras.Sequential([keras.Input((4,)), layers.LayerNormalization()])
    injecting(model, "no Dense or EinsumDense")
    injecting(model, config=LoRAConfig(targets=r".*nothing"))


def test_all_linear_names_the_convolutions_where_there_is_nothing_else():
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(4, 3), layers.Conv2D(4, 1)]
    )
    names = "name `targets`. Available: conv2d, conv2d_1"
    injecting(model, names)
    with pytest.raises(ValueError, match=names):
        keras_lora.find_targets(model)


@pytest.mark.parametrize("targets", [[], ()])
def test_an_empty_list_of_targets_is_refused(base, targets):
    with pytest.raises(ValueError, match="targets"):
        keras_lora.inject(base, LoRAConfig(2, targets=targets))


def test_patterns_that_match_nothing_are_refused(base):
    injecting(base, "'.*x' matches no layer", config=LoRAConfig(targets=".*x"))
    for bad in ("(", ["stem", 3], 5, [""]):
        with pytest.raises(ValueError, match="targets"):
            LoRAConfig(targets=bad)


def test_a_pattern_that_hits_other_layers_says_which(base):
    one, more = LoRAConfig(targets="nor."), LoRAConfig(targets="norm|input.*")
    both = "'norm|input.*' matches no LoRA layer, only"
    injecting(base, "'nor.' is a BatchNormalization, no LoRA", config=one)
    injecting(
        base, both, "norm (BatchNormalization)", "(InputLayer)", config=more
    )
    trained = LoRAConfig(targets=".*gits")
    injecting(base, "'.*gits' is in `train`", config=trained, train=["logits"])
    after = AdapterConfig(2, targets=["logits"])
    injecting(base, "'logits' is in `train`", config=after, train=["logits"])


@pytest.mark.parametrize("kind", ["kernel", "embeddings"])
def test_a_constrained_kernel_is_refused(kind):
    i = keras.Input((4,), dtype="int32")
    norm = keras.constraints.MaxNorm(1.0)
    both = kind == "embeddings"
    y = layers.Embedding(5, 4, embeddings_constraint=norm if both else None)(i)
    y = layers.Dense(3, kernel_constraint=None if both else norm)(y)
    model = keras.Model(i, y)
    targets = ["embedding", "dense"]
    message = injecting(
        model, "has a kernel constraint", config=LoRAConfig(2, targets=targets)
    )
    assert ("dense: " in message) is not both
    other = targets[1] if both else targets[0]
    keras_lora.inject(model, LoRAConfig(2, targets=[other]))


def test_spectral_normalization_is_refused():
    i = keras.Input((4,))
    y = layers.SpectralNormalization(layers.Dense(3))(i)
    model = keras.Model(i, layers.Dense(2)(y))
    injecting(model, "spectral_normalization: SpectralNormalization changes")


def test_the_built_in_lora_is_refused(base):
    base.get_layer("stem").enable_lora(2)
    injecting(base, "stem: Keras's own `enable_lora` was called on it")


@pytest.mark.parametrize("mode", ["gptq", "awq", "float8"])
def test_quantizations_that_train_or_calibrate_are_refused(base, mode):
    try:
        if mode == "float8":
            base.quantize("float8")
        else:
            policy = keras.dtype_policies.get(f"{mode}/4/-1_from_float32")
            base.get_layer("stem")._dtype_policy = policy
            assert base.get_layer("stem").quantization_mode == mode
    except (ValueError, ImportError, NotImplementedError) as error:
        pytest.skip(f"Keras on {BACKEND} cannot: {error!s:.60}")
    injecting(base, "stem", f"quantized as {mode}", "int8 and int4 are")


def test_outputs_that_are_no_tensor_are_refused_as_bottleneck_targets():
    class Two(layers.Layer):
        def build(self, shape):
            self.kernel = self.add_weight(shape=(shape[-1], 3), name="kernel")

        def call(self, x):
            return {"a": x + 1.0, "b": ops.matmul(x, self.kernel)}

    i = keras.Input((4,))
    y = Two(name="two")(i)
    model = keras.Model(i, layers.Dense(2, name="top")(y["a"]))
    config = AdapterConfig(2, targets=["two", "topp"])
    injecting(
        model,
        "two: its output is a dict",
        "target 'topp' matches no layer",
        "Available: two, top",
        config=config,
    )


def test_bottlenecks_without_feed_forward_name_the_candidates(base):
    injecting(
        base,
        "no place known for 'pfeiffer'",
        "Available: stem, norm, branch, logits",
        config=AdapterConfig(2),
    )
    injecting(
        base,
        "Keras has no activation named 'rleu'",
        config=AdapterConfig(2, activation="rleu", targets=["stem"]),
    )


def test_actions_on_a_model_without_adapter_are_refused(base, tmp_path):
    path = tmp_path / "x.safetensors"
    for action in (
        keras_lora.eject,
        keras_lora.merge,
        keras_lora.summary,
        lambda m: keras_lora.save_adapter(m, path),
        lambda m: keras_lora.disabled(m).__enter__(),
    ):
        refused(lambda a=action: a(base), base, "has no adapter: `inject`")
    assert not path.exists()


def loading(model, path, *words, **options):
    return refused(
        lambda: keras_lora.load_adapter(model, path, **options), model, *words
    )


def test_a_foreign_base_is_refused(base, file):
    loading(make(seed=4), file, "another base", "stem/kernel: other values")
    loading(make(units=9), file, "another base", "shape", "expected [6, 8]")
    other = keras.Sequential([keras.Input((6,)), layers.Dense(3)])
    loading(
        other,
        file,
        "another base",
        "stem/kernel: missing from this base",
        "branch: no such layer",
        "layers of this model: dense",
    )


def test_a_base_of_another_dtype_is_refused(file):
    keras.config.set_dtype_policy("float16")
    try:
        model = make()
    finally:
        keras.config.set_dtype_policy("float32")
    loading(model, file, "dtype float16, expected float32")


def test_a_changed_base_is_refused_at_save_and_load(base, file, tmp_path):
    keras_lora.inject(base, LoRAConfig(2), train=["logits"])
    fill(base)
    layer = base.get_layer("branch")
    layer.bias.assign(np.ones(8))
    base.get_layer("norm").moving_mean.assign(np.ones(8))
    path = tmp_path / "changed.safetensors"
    refused(
        lambda: keras_lora.save_adapter(base, path),
        base,
        "the base has changed since `inject`: branch/bias",
        "the base has changed since `inject`: norm/moving_mean",
    )
    assert not path.exists()
    loading(base, file, "another base", "branch/bias", "norm/moving_mean")


def test_an_adapter_unlike_the_model_s_is_refused(file, tmp_path):
    for config, options, words in (
        (LoRAConfig(3), {"train": ["logits"]}, ["'rank': 3", "'rank': 2"]),
        (LoRAConfig(2, targets=["stem"]), {}, ["branch", "trains none"]),
        (AdapterConfig(2, targets=["stem"]), {}, ["'bottleneck'", "eject"]),
    ):
        model = keras_lora.inject(make(), config, **options)
        loading(fill(model), file, *words)


def contents(path):
    with safe_open(path, "numpy") as file:
        record = json.loads(file.metadata()[container.METADATA_KEY])
        return {k: file.get_tensor(k) for k in file.keys()}, record  # noqa: SIM118


def rewritten(path, tensors, record, name="bad.safetensors"):
    text = record if isinstance(record, str) else json.dumps(record)
    bad = path.with_name(name)
    save_file(tensors, bad, {container.METADATA_KEY: text})
    return bad


def test_tensors_that_do_not_fit_are_all_listed(base, file):
    tensors, record = contents(file)
    del tensors["stem/lora_a"]
    tensors["branch/lora_b"] = np.zeros((2, 9), "float32")
    tensors["logits/kernel"] = np.zeros((1, 1), "float32")
    tensors["stem/lora_c"] = np.zeros(1, "float32")
    bad = rewritten(file, tensors, record)
    missing, misshaped = "no 'stem/lora_a'", "'branch/lora_b': shape (2, 9)"
    loading(base, bad, missing, misshaped)
    adapted = keras_lora.inject(make(), LoRAConfig(2), train=["logits"])
    loading(
        fill(adapted),
        bad,
        missing,
        misshaped,
        "'logits/kernel': shape (1, 1), expected (8, 3)",
        "unexpected 'stem/lora_c'",
    )


def test_every_misfit_is_listed_on_a_bare_base_too(base, file):
    tensors, record = contents(file)
    tensors["branch/lora_b"] = np.zeros((2, 9), "float32")
    tensors["logits/kernel"] = np.zeros((1, 1), "float32")
    tensors["stem/lora_c"] = np.zeros(1, "float32")
    del tensors["logits/bias"]
    loading(
        base,
        rewritten(file, tensors, record),
        "'branch/lora_b': shape (2, 9)",
        "'logits/kernel': shape (1, 1)",
        "unexpected 'stem/lora_c'",
        "no 'logits/bias'",
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_at_load(base, file, value):
    tensors, record = contents(file)
    tensors["stem/lora_a"][0, 0] = value
    tensors["logits/bias"][0] = value
    loading(
        base,
        rewritten(file, tensors, record),
        "tensor 'stem/lora_a' is not finite",
        "tensor 'logits/bias' is not finite",
    )


def test_an_adapter_that_is_not_finite_is_not_saved(base, file, tmp_path):
    keras_lora.inject(base, LoRAConfig(2), train=["logits"])
    base.get_layer("stem").lora_a.assign(np.full((6, 2), np.nan))
    base.get_layer("logits").bias.assign(np.full(3, np.inf))
    old = file.read_bytes()
    refused(
        lambda: keras_lora.save_adapter(base, file),
        base,
        "tensor 'stem/lora_a' is not finite",
        "tensor 'logits/bias' is not finite",
    )
    assert file.read_bytes() == old
    refused(lambda: keras_lora.merge(base), base, "stem", "not finite")


def test_a_bottleneck_is_not_merged(base):
    fill(keras_lora.inject(base, AdapterConfig(2, targets=["stem", "norm"])))
    refused(
        lambda: keras_lora.merge(base),
        base,
        "stem: a bottleneck cannot be folded",
        "norm: a bottleneck cannot be folded",
    )


@pytest.mark.parametrize("cut", [0, 4, 8, 100, -200, -1])
def test_a_truncated_file_is_refused(base, file, cut):
    bad = file.with_name("cut.safetensors")
    bad.write_bytes(file.read_bytes()[:cut])
    loading(base, bad, "truncated")


def test_bytes_behind_the_end_are_refused(base, file):
    bad = file.with_name("long.safetensors")
    bad.write_bytes(file.read_bytes() + b"more")
    loading(base, bad, "truncated or no safetensors file")


def test_other_files_are_refused(base, file, tmp_path, monkeypatch):
    loading(base, tmp_path / "absent", "absent", "No such file")
    loading(base, tmp_path, "no file")
    text = tmp_path / "text"
    text.write_text("a text, not an adapter")
    loading(base, text, "no safetensors file")
    save_file({"a": np.zeros(1)}, text)
    loading(base, text, "no keras_lora adapter")
    huge = tmp_path / "huge"
    with huge.open("wb") as sparse:
        sparse.truncate(container.MAX_BYTES + 1)
    loading(base, huge, "are over")
    monkeypatch.setattr(container, "MAX_HEADER", 100)
    loading(base, file, "a header of over 100 bytes")


def test_a_header_that_claims_too_much_is_refused(base, tmp_path):
    bad = tmp_path / "claims"
    bad.write_bytes((1 << 60).to_bytes(8, "little") + b"{}")
    loading(base, bad, "no safetensors file")


RECORDS = {
    "no JSON": ("{", "no JSON"),
    "nested too deep": ("[" * 100_000, "no JSON"),
    "a list": ("[]", "no format version"),
    "no format": ("{}", "no format version"),
    "a format that is no int": ('{"format": true}', "no format version"),
    "format zero": ('{"format": 0}', "no format version"),
    "format only": ('{"format": 1}', "record: no `layers`"),
}


@pytest.mark.parametrize("name", RECORDS)
def test_a_malformed_record_is_refused(base, file, name):
    text, word = RECORDS[name]
    loading(base, rewritten(file, contents(file)[0], text), word)


def test_a_newer_format_is_refused(base, file):
    tensors, record = contents(file)
    record["format"] = 2
    bad = rewritten(file, tensors, record)
    loading(base, bad, "format 2 is newer than 1", "update")


@pytest.mark.parametrize(
    "field,value,word",
    [
        ("rank", 0, "rank=0"),
        ("rank", True, "rank=True"),
        ("rank", 10**15, "expected (6, 1000000000000000)"),
        ("alpha", "16", "alpha='16'"),
        ("alpha", float("nan"), "alpha=nan"),
        ("alpha", float("inf"), "alpha=inf"),
        ("alpha", 10**400, "alpha=1000"),
        ("dropout", 1.5, "dropout=1.5"),
        ("method", "no_such", "unknown method"),
        ("method", ["lora"], "unknown method"),
    ],
)
def test_a_setting_out_of_range_is_refused(base, file, field, value, word):
    tensors, record = contents(file)
    record["layers"]["stem"][field] = value
    loading(base, rewritten(file, tensors, record), word)


@pytest.mark.parametrize(
    "field,value,word",
    [
        ("activation", "rleu", "activation"),
        ("width", 9, "width"),
        ("bottleneck", 10**15, "expected"),
        ("bottleneck", True, "bottleneck=True"),
        ("reduction_factor", 0, "reduction_factor=0"),
        ("layer_norm", 1, "layer_norm=1"),
    ],
)
def test_a_bottleneck_setting_out_of_range_is_refused(
    base, tmp_path, field, value, word
):
    config = AdapterConfig(2, targets=["stem", "norm"])
    path = tmp_path / "bottleneck.safetensors"
    keras_lora.save_adapter(fill(keras_lora.inject(make(), config)), path)
    tensors, record = contents(path)
    record["layers"]["stem"][field] = value
    if field == "width":
        shapes = {"down_kernel": (9, 2), "up_kernel": (2, 9), "up_bias": (9,)}
        for name, shape in shapes.items():
            tensors[f"stem/{name}"] = np.ones(shape, "float32")
    loading(base, rewritten(path, tensors, record), word)


def test_a_record_that_names_other_layers_is_refused(base, file):
    tensors, record = contents(file)
    record["layers"]["norm"] = record["layers"]["stem"]
    loading(base, rewritten(file, tensors, record), "carries no lora")
    tensors, record = contents(file)
    record["layers"]["nowhere"] = record["layers"]["stem"]
    loading(base, rewritten(file, tensors, record), "nowhere: no such layer")
    tensors, record = contents(file)
    tensors["nowhere/lora_a"] = tensors["stem/lora_a"]
    bad = rewritten(file, tensors, record)
    loading(base, bad, "'nowhere/lora_a' belongs to no layer")
    tensors, record = contents(file)
    tensors["@head/0/kernel"] = tensors["stem/lora_a"]
    bad = rewritten(file, tensors, record)
    loading(base, bad, "'@head/0/kernel' belongs to no layer")
    record["outside"] = ["elsewhere"]
    bad = rewritten(file, tensors, record)
    loading(base, bad, "'@head/0/kernel'")


@pytest.fixture
def headed(tmp_path):
    """The file of an outer model with two layers as its head."""
    path = tmp_path / "headed.safetensors"
    inner = fill(keras_lora.inject(make(), LoRAConfig(2)))
    head = [layers.Dense(4, name="one"), layers.Dense(2, name="two")]
    keras_lora.save_adapter(keras.Sequential([inner, *head]), path)
    return path


def outer(*head):
    model = keras.Sequential([make(), *head])
    model.compile("sgd", "mse")
    return model


def test_a_head_with_nowhere_to_go_is_refused(base, headed):
    loading(base, headed, "head (Dense, Dense) has nowhere to go", "head=False")
    keras_lora.load_adapter(base, headed, head=False)


def test_another_head_is_refused(headed):
    loading(outer(layers.Dense(4)), headed, "the head is ['Dense']")
    loading(
        outer(layers.Dense(4), layers.Dense(5)),
        headed,
        "'@head/1/kernel': shape (4, 2), expected (4, 5)",
        "'@head/1/bias': shape (2,), expected (5,)",
    )
    other = outer(layers.Dense(4), layers.LayerNormalization())
    loading(other, headed, "['Dense', 'LayerNormalization']")


def test_a_head_and_an_adapter_that_do_not_fit_are_listed_together(headed):
    tensors, record = contents(headed)
    tensors["stem/lora_b"] = np.zeros((2, 9), "float32")
    bad = rewritten(headed, tensors, record)
    loading(outer(layers.Dense(4)), bad, "stem/lora_b", "the head is")


def test_a_name_of_no_head_is_refused(base, tmp_path):
    keras_lora.inject(base, LoRAConfig(2))
    model = fill(keras.Sequential([base, layers.Dense(2, name="top")]))
    path = tmp_path / "x.safetensors"
    refused(
        lambda: keras_lora.save_adapter(model, path, head="tap"),
        model,
        "head='tap' names 0 layers",
        "top",
    )
    assert not path.exists()


def test_two_adapted_bases_in_one_model_are_refused(tmp_path):
    bases = [make(), make(seed=4)]
    bases[1].name = "second"
    for one in bases:
        fill(keras_lora.inject(one, LoRAConfig(2)))
    i = keras.Input((6,))
    model = keras.Model(i, layers.Add()([one(i) for one in bases]))
    path = tmp_path / "two.safetensors"
    words = "several adapted bases"
    refused(lambda: keras_lora.save_adapter(model, path), model, words)
    assert not path.exists()
    x = normal(3, 6)
    for number, one in enumerate(bases):
        keras_lora.save_adapter(one, path.with_name(f"{number}"))
    loading(model, path.with_name("0"), words)
    assert np.isfinite(numpy_of(model(x))).all()


def test_a_part_of_an_adapted_model_is_refused(tmp_path):
    inner = keras.Sequential([keras.Input((6,)), layers.Dense(4)])
    model = keras.Sequential([inner, layers.Dense(3)])
    fill(keras_lora.inject(model, LoRAConfig(2)))
    refused(
        lambda: keras_lora.save_adapter(inner, tmp_path / "x"),
        inner,
        "not in the given model, which is a part",
    )


@pytest.mark.parametrize("part", ["eject", "merge"])
def test_a_part_of_an_adapted_model_is_not_rewritten(part):
    inner = keras.Sequential([keras.Input((6,)), layers.Dense(4)])
    model = keras.Sequential([inner, layers.Dense(3)])
    fill(keras_lora.inject(model, LoRAConfig(2)))
    action = getattr(keras_lora, part)
    refused(lambda: action(inner), model, "part of the adapted")


def test_a_switched_off_adapter_is_neither_saved_nor_rewritten(base, tmp_path):
    fill(keras_lora.inject(base, LoRAConfig(2)))
    path = tmp_path / "off.safetensors"
    keras_lora.save_adapter(base, path)
    y = numpy_of(base(normal(2, 6)))
    with keras_lora.disabled(base):
        for action in (
            lambda m: keras_lora.save_adapter(m, tmp_path / "x"),
            keras_lora.merge,
            keras_lora.eject,
            lambda m: keras_lora.load_adapter(m, path),
        ):
            refused(lambda a=action: a(base), base, "off by `disabled`")
    np.testing.assert_array_equal(numpy_of(base(normal(2, 6))), y)


def test_training_while_switched_off_is_undone_and_said(base):
    fill(keras_lora.inject(base, LoRAConfig(2)))
    base.compile("sgd", "mse")
    y = numpy_of(base(normal(2, 6)))
    with (
        pytest.raises(ValueError, match="trained while .* off"),
        keras_lora.disabled(base),
    ):
        base.fit(normal(8, 6), normal(8, 3), verbose=0)
    np.testing.assert_allclose(
        numpy_of(base(normal(2, 6))), y, rtol=1e-5, atol=1e-6
    )


@pytest.mark.skipif(os.name == "nt", reason="folders have no such modes")
def test_a_folder_that_cannot_be_written_is_refused(base, tmp_path):
    fill(keras_lora.inject(base, LoRAConfig(2)))
    absent = tmp_path / "absent" / "x.safetensors"
    words = str(absent), "was not written"
    refused(lambda: keras_lora.save_adapter(base, absent), base, *words)
    refused(
        lambda: keras_lora.save_adapter(base, tmp_path),
        base,
        "was not written",
    )
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(0o500)
    if os.access(closed, os.W_OK):
        pytest.skip("this user may write everywhere")
    refused(
        lambda: keras_lora.save_adapter(base, closed / "x"),
        base,
        "Permission denied",
    )
