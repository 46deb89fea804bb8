"""A ladder beside the base meets the laws, and says what it cannot be on."""

import pickle

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_lora
from benchmarks import odd_parts
from keras_lora import SideConfig
from tests.helpers import fill, hosts_of, refused, state
from tests.methods.contract import Case, Facts
from tests.models import (
    KINDS,
    ROWS,
    STEPS,
    WORDS,
    difference,
    features,
    flattened_into,
    hub,
    outputs_of,
    predictions_of,
    register,
    same_bits,
    set_random,
    to_numpy,
    to_tensors,
    tokens,
    values_of,
)

JAX = keras.backend.backend() == "jax"
TORCH = keras.backend.backend() == "torch"
BLOCKS = 3


def ladder(width=8, heads=2, dropout=0.0, **options):
    return SideConfig(width, heads, dropout, **options)


def encoder(count=BLOCKS, seed=0, **sizes):
    """A BERT of a few blocks."""
    base = hub().models.BertBackbone(
        vocabulary_size=WORDS,
        num_layers=count,
        num_heads=2,
        **{"hidden_dim": 8, "intermediate_dim": 16, "dropout": 0.0, **sizes},
        max_sequence_length=STEPS,
    )
    set_random(base.weights, seed)
    return base


def words():
    return tokens(with_segments=True)


def task_on(base):
    """A head of random weights on what the base pools."""
    model = flattened_into(base, words())
    mine = {id(v) for v in base.weights}
    set_random([v for v in model.weights if id(v) not in mine], 3)
    return model


def adapted(config=None, count=BLOCKS, **sizes):
    """A task on a base whose ladder does something."""
    base = encoder(count, **sizes)
    keras_lora.inject(base, config or ladder())
    fill(base)
    return base, task_on(base)


@pytest.mark.parametrize("name", ["block_without_build", "bert_backbone"])
def test_every_law_holds(name, tmp_path, elsewhere):
    case = Case(name, lambda kind: ladder())
    case.goes_through(tmp_path, elsewhere, "side", "cannot be folded")
    case.is_saved_by_keras(tmp_path)


@pytest.mark.slow
def test_the_laws_hold_compiled():
    Case("bert_backbone", lambda kind: ladder()).holds_compiled()


def test_fit_learns_and_the_base_is_the_same_to_the_bit():
    base = encoder()
    before, plain = Facts(base), outputs_of(base, words())
    keras_lora.inject(base, ladder(dropout=0.1))
    model = task_on(base)
    model.compile(keras.optimizers.Adam(0.02), "mse")
    x, y = words(), np.random.default_rng(0).normal(size=(ROWS, 2))
    losses = model.fit(x, y, epochs=20, verbose=0).history["loss"]
    assert losses[-1] < losses[0] / 2
    adapter = {id(v) for v in base.trainable_variables}
    assert len(adapter) == BLOCKS
    frozen = [v for v in base.weights if id(v) not in adapter]
    assert same_bits(values_of(frozen), before.values)
    assert difference(plain, outputs_of(base, x)) > 1e-3
    keras_lora.eject(model)
    before.assert_same(Facts(base))


def test_a_file_loads_onto_the_outer_model_and_says_what_is_in_it(tmp_path):
    base, model = adapted()
    there = outputs_of(model, words())
    keras_lora.save_adapter(model, tmp_path / "task")
    info = keras_lora.inspect_adapter(tmp_path / "task")
    assert info.methods == ("side",)
    stages = [settings["stage"] for settings in info.layers.values()]
    assert stages == list(range(BLOCKS))
    for path, settings in info.layers.items():
        assert settings["stages"] == BLOCKS and settings["features"] == 8
        assert set(info.tensors) >= {f"{path}/stage"}
    keras_lora.eject(base)
    assert difference(there, outputs_of(model, words())) > 1e-2
    other = task_on(encoder())
    set_random(other.layers[-1].weights, 8)
    keras_lora.load_adapter(other, tmp_path / "task")
    assert difference(there, outputs_of(other, words())) < 1e-5
    bare = keras_lora.load_adapter(encoder(), tmp_path / "task", head=False)
    keras_lora.load_adapter(model, tmp_path / "task")
    expected = outputs_of(base, words())
    assert difference(expected, outputs_of(bare, words())) < 1e-5


def test_an_adapted_model_is_pickled():
    _, model = adapted()
    again = pickle.loads(pickle.dumps(model))
    there = outputs_of(model, words())
    assert difference(there, outputs_of(again, words())) < 1e-6
    assert len(hosts_of(again)) == BLOCKS
    with keras_lora.disabled(model):
        assert difference(there, outputs_of(model, words())) > 1e-2


def test_everything_wrong_in_a_config_is_listed():
    refused(
        lambda: SideConfig(0, -1, 1.0, [""], 2),
        "width=0",
        "heads=-1",
        "dropout=1.0",
        "targets=['']",
        "layers=2",
    )
    refused(lambda: SideConfig(10, 4), "must be a multiple of `heads`")
    refused(lambda: SideConfig(100_000), "from 1 to 65,536")


def refuses(model, *words, config=None, **options):
    """`inject` says why no ladder goes there, and leaves the model alone."""
    before = state(model)
    config = config or ladder()
    refused(lambda: keras_lora.inject(model, config, **options), *words)
    assert state(model) == before


@pytest.mark.parametrize("name", ["gpt2", "gemma", "llama"])
def test_blocks_that_do_not_see_ahead_are_refused(name):
    if name == "llama":
        base = hub().models.LlamaBackbone(
            vocabulary_size=WORDS,
            num_layers=2,
            num_query_heads=2,
            num_key_value_heads=1,
            hidden_dim=8,
            intermediate_dim=16,
        )
    else:
        base = KINDS[name].base()
    config = ladder(targets=r".*transformer_layer_\d|.*decoder_block_\d")
    refuses(base, "is causal", "is for encoders", config=config)


def test_a_model_without_repeated_blocks_is_refused():
    for name in ("functional", "attention"):
        refuses(KINDS[name].base(), "no repeated blocks", "`targets`")


@register
class Mixing(layers.Layer):
    """A block whose output has the axes of its input."""

    def __init__(self, width=8, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(width, activation="tanh")

    def call(self, x):
        return x + self.dense(x)


def blocks_in_a_row(shape, between=None, count=2):
    x = inputs = keras.Input(shape)
    for number in range(count):
        x = Mixing(shape[-1], name=f"block_{number}")(x)
        if between and number < count - 1:
            x = between(x)
    model = keras.Model(inputs, layers.Dense(3)(x))
    set_random(model.weights)
    return model


def test_blocks_that_do_not_read_each_other_are_refused():
    base = blocks_in_a_row((STEPS, 8), layers.LayerNormalization())
    refuses(base, "block_1: it does not read what block_0 gives")
    refuses(
        blocks_in_a_row((STEPS, 8), count=3),
        "block_2: it does not read what block_0 gives",
        config=ladder(targets=["block_0", "block_2"]),
    )
    refuses(
        encoder(),
        "transformer_layer_2: it does not read what transformer_layer_0",
        config=ladder(layers=[0, 2]),
    )


def test_blocks_that_give_no_sequence_are_refused():
    for shape in ((8,), (3, 3, 8)):
        refuses(
            blocks_in_a_row(shape),
            "block_0: its output is not (batch, length, features)",
            "block_1: its output is not",
        )


def test_what_is_trained_or_not_there_is_refused_together():
    refuses(
        encoder(),
        "'nowhere' matches no layer",
        "transformer_layer_1: it is in `train`",
        config=ladder(targets=["transformer_layer_1", "nowhere"]),
        train=["transformer_layer_1"],
    )
    refuses(
        encoder(),
        "'nowhere' matches no layer",
        "no block 7",
        config=ladder(targets=["transformer_layer_1", "nowhere"], layers=[7]),
    )


def paths_of(base):
    rows = keras_lora.summary(base).rows
    return [row.path for row in rows if row.method == "side"]


def test_a_ladder_may_begin_late_and_may_be_named():
    names = [f"transformer_layer_{n}" for n in range(BLOCKS)]
    for config, expected in (
        (ladder(layers=slice(-2, None)), names[1:]),
        (ladder(targets=names[:2]), names[:2]),
        (ladder(targets=r"transformer_layer_\d"), names),
        (ladder(targets=names[2:]), names[2:]),
    ):
        base = encoder()
        plain = outputs_of(base, words())
        keras_lora.inject(base, config)
        assert paths_of(base) == expected
        assert same_bits(plain, outputs_of(base, words()))
        fill(base)
        assert difference(plain, outputs_of(base, words())) > 1e-2
    table = str(keras_lora.summary(base))
    assert "width 8" in table and "side" in table


def test_blocks_may_be_models_of_their_own():
    x = inputs = keras.Input((STEPS, 8))
    for number in range(2):
        block = [layers.Dense(16, "gelu"), layers.Dense(8)]
        x = keras.Sequential(block, name=f"block_{number}")(x)
    base = keras.Model(inputs, x)
    set_random(base.weights)
    keras_lora.inject(base, ladder())
    assert paths_of(base) == ["block_0", "block_1"]
    fill(base)
    x = features(STEPS, 8)
    frozen, trainable = keras_lora.split(base)
    found = outputs_of(base, x)
    assert (
        difference(found, outputs_of(trainable, frozen(to_tensors(x)))) < 1e-6
    )
    with keras_lora.disabled(base):
        assert difference(found, outputs_of(base, x)) > 1e-2


def test_what_stands_at_padding_changes_nothing():
    base, _ = adapted()
    x = words()
    hidden = x["padding_mask"] == 0
    assert hidden.any()
    other = {**x, "token_ids": np.where(hidden, WORDS - 1, x["token_ids"])}
    for call in (outputs_of, predictions_of):
        pooled, sequence = call(base, x)
        pooled_2, sequence_2 = call(base, other)
        seen = ~hidden
        assert difference([pooled], [pooled_2]) < 1e-6
        assert difference([sequence[seen]], [sequence_2[seen]]) < 1e-6
        assert difference([sequence[hidden]], [sequence_2[hidden]]) > 1e-3


def test_a_keras_mask_is_what_blocks_see_too():
    """Of an embedding with `mask_zero`, which blocks pass on."""
    inputs = keras.Input((None,), dtype="int32")
    x = layers.Embedding(WORDS, 8, mask_zero=True)(inputs)
    for number in range(2):
        x = hub().layers.TransformerEncoder(16, 2, name=f"block_{number}")(x)
    base = keras.Model(inputs, x)
    set_random(base.weights)
    keras_lora.inject(base, ladder())
    fill(base)
    x = words()["token_ids"]
    assert not x[0, 2:].any()
    [padded], [short] = outputs_of(base, x[:1]), outputs_of(base, x[:1, :2])
    assert difference([padded[:, :2]], [short]) < 1e-5


@pytest.fixture(params=["mixed_bfloat16", "mixed_float16", "bfloat16"])
def policy(request):
    if JAX and request.param.removeprefix("mixed_") == "float16":
        pytest.skip("JAX on a CPU multiplies no float16 matrices")
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    yield keras.config.dtype_policy()
    keras.config.set_dtype_policy(before)


@pytest.mark.slow
def test_a_ladder_is_float32_on_a_base_of_16_bits(policy, tmp_path):
    kind = KINDS["block_without_build"]
    base, x = kind.base(), kind.inputs()
    plain = base(to_tensors(x))
    keras_lora.inject(base, ladder())
    fresh = base(to_tensors(x))
    assert as_float(fresh).tobytes() == as_float(plain).tobytes()
    assert {v.dtype for v in base.trainable_variables} == {"float32"}
    fill(base)
    there = base(to_tensors(x))
    dtype = keras.backend.standardize_dtype(there.dtype)
    assert dtype == policy.compute_dtype
    assert difference([as_float(plain)], [as_float(there)]) > 1e-2
    keras_lora.save_adapter(base, tmp_path / "task")
    keras_lora.load_adapter(keras_lora.eject(base), tmp_path / "task")
    again = base(to_tensors(x))
    assert as_float(again).tobytes() == as_float(there).tobytes()
    base.compile("adam", "mse")
    base.fit(x, np.ones(there.shape), verbose=0)
    assert np.isfinite(as_float(base(to_tensors(x)))).all()


def as_float(tensor):
    return to_numpy(ops.cast(tensor, "float32"))


def test_dropout_is_of_training_alone():
    x = to_tensors(words())
    for dropout, differs in ((0.5, True), (0.0, False)):
        _, model = adapted(ladder(dropout=dropout))
        still = [to_numpy(model(x)) for _ in range(2)]
        moving = [to_numpy(model(x, training=True)) for _ in range(2)]
        assert same_bits(still[:1], still[1:])
        assert (difference(moving[:1], moving[1:]) > 1e-3) == differs
        assert (difference(moving[:1], still[:1]) > 1e-3) == differs


def trained(model, x, y, steps=20):
    """The losses of some steps on all rows."""
    model.compile(keras.optimizers.SGD(0.05, momentum=0.5), "mse")
    history = model.fit(
        x, y, epochs=steps, batch_size=len(y), shuffle=False, verbose=0
    )
    return history.history["loss"]


@pytest.mark.extra
def test_a_split_model_learns_what_the_whole_one_does():
    x, y = words(), np.random.default_rng(0).normal(size=(ROWS, 2))
    _, whole = adapted()
    base, model = adapted()
    start = values_of(model.trainable_variables)
    assert same_bits(start, values_of(whole.trainable_variables))
    losses = trained(whole, x, y)
    assert losses[-1] < 0.9 * losses[0]
    frozen, trainable = keras_lora.split(model)
    features = frozen.predict(x, verbose=0)
    assert np.allclose(trained(trainable, features, y), losses, atol=1e-5)
    values = values_of(model.trainable_variables)
    assert difference(values_of(whole.trainable_variables), values) < 1e-5
    assert difference(start, values) > 1e-3
    expected = outputs_of(whole, x)
    assert difference(expected, outputs_of(model, x)) < 1e-5
    assert difference(expected, predictions_of(trainable, features)) < 1e-5


def test_what_crosses_the_cut_is_what_the_blocks_give_and_the_padding():
    base, model = adapted()
    frozen, trainable = keras_lora.split(model)
    assert not frozen.trainable_variables
    trains = {id(v) for v in model.trainable_variables}
    assert {id(v) for v in trainable.trainable_variables} == trains
    found = {name: y.shape for name, y in frozen.output.items()}
    mask = [name for name, shape in found.items() if len(shape) == 2]
    assert mask == ["padding_mask"]
    sizes = [shape[1:] for name, shape in found.items() if name not in mask]
    assert sizes == [(None, 8)] * BLOCKS
    x = words()
    with keras_lora.disabled(base):
        plain = outputs_of(base, x)[1]
    features = frozen.predict(x, verbose=0)
    last = [y for y in features.values() if y.shape == plain.shape]
    assert min(difference([y], [plain]) for y in last) < 1e-5


@pytest.mark.parametrize("policy", ["mixed_bfloat16"], indirect=True)
def test_a_split_model_gives_what_it_gave_on_a_base_of_16_bits(policy):
    kind = KINDS["block_without_build"]
    base, x = kind.base(), to_tensors(kind.inputs())
    fill(keras_lora.inject(base, ladder()))
    frozen, trainable = keras_lora.split(base)
    y, again = base(x), trainable(frozen(x))
    # On torch a graph of Keras takes the blocks' output for float32.
    assert TORCH or y.dtype == again.dtype
    assert difference([as_float(y)], [as_float(again)]) < 1e-2


@pytest.mark.slow
def test_a_part_asks_for_compile_once_its_ladder_is_gone():
    base, model = adapted()
    frozen, trainable = keras_lora.split(model)
    x, y = words(), np.ones((ROWS, 2))
    features = frozen.predict(x, verbose=0)
    trained(trainable, features, y, steps=1)
    keras_lora.eject(base)
    with pytest.raises(ValueError, match=r"compile"):
        trainable.fit(features, y, verbose=0)
    for attach in (lambda: None, lambda: keras_lora.inject(base, ladder())):
        attach()
        trainable.compile("sgd", "mse")
        with pytest.raises(ValueError, match=r"another ladder now, or none"):
            trainable.fit(features, y, verbose=0)


def test_a_base_run_in_parts_says_so_rather_than_losing_the_ladder():
    base, _ = adapted()
    x = ops.ones((1, STEPS, 8))
    with pytest.raises(ValueError, match="stage 1 of a ladder"):
        base.get_layer("transformer_layer_1")(x)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """The bytes of a file of a ladder alone, on `encoder()`."""
    path = tmp_path_factory.mktemp("side") / "good"
    base, _ = adapted()
    keras_lora.save_adapter(base, path)
    return path.read_bytes()


LAYER = "transformer_layer_1"


def without_a_stage(record, tensors):
    del record["layers"][LAYER], tensors[f"{LAYER}/stage"]


def setting(name, value, everywhere=False):
    def change(record, tensors):
        for path, settings in record["layers"].items():
            if everywhere or path == LAYER:
                settings[name] = value

    return change


def swapped(record, tensors):
    """The first two stages on each other's blocks."""
    zero = "transformer_layer_0"
    layers = record["layers"]
    layers[LAYER]["stage"], layers[zero]["stage"] = 0, 1


def wider(record, tensors):
    """One stage of another width, its tensor fitting."""
    from keras_lora.methods.side.ladder import packed_size, shapes

    record["layers"][LAYER]["width"] = 12
    size = packed_size(shapes(8, 12, False))
    tensors[f"{LAYER}/stage"] = ("F32", [size], bytes(4 * size))


def cut_short(record, tensors):
    dtype, [size], data = tensors[f"{LAYER}/stage"]
    tensors[f"{LAYER}/stage"] = (dtype, [size - 1], data[:-4])


HOSTILE = {
    "a stage is missing": (without_a_stage, "not whole", "0, 2 of 3"),
    "a stage twice": (setting("stage", 0), "0, 0, 2 of 3"),
    "more stages": (setting("stages", 10**12, True), "not whole"),
    "counts differ": (setting("stages", 4), "differ in `stages`: 3, 4"),
    "a wrong order": (swapped, "does not read"),
    "heads differ": (setting("heads", 4), "differ in `heads`: 2, 4"),
    "widths differ": (wider, "differ in `width`: 8, 12"),
    "no multiple": (setting("heads", 3), "multiple of `heads`"),
    "no width": (setting("width", 0), "width=0"),
    "a text": (setting("width", "8"), "width='8'"),
    "a huge width": (setting("width", 10**9), "from 1 to 65,536"),
    "wide": (setting("width", 65_536, True), "stage"),
    "other features": (setting("features", 9), "stage"),
    "no stage": (setting("stage", 3), "below `stages`"),
    "a negative stage": (setting("stage", -1), "below `stages`"),
    "half a stage": (setting("stage", 0.5), "below `stages`"),
    "no dropout": (setting("dropout", 1), "`dropout` must be in"),
    "a short tensor": (cut_short, f"{LAYER}/stage"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_an_odd_file_is_refused_in_words(kind, good, tmp_path):
    change, *expected = HOSTILE[kind]
    _, record, _ = odd_parts.parts(good)
    tensors = odd_parts.tensors_of(good)
    change(record, tensors)
    path = tmp_path / "odd"
    path.write_bytes(odd_parts.rebuilt(record, tensors))
    base = encoder()
    before = state(base)
    refused(lambda: keras_lora.load_adapter(base, path), *expected)
    assert state(base) == before
    bank = keras_lora.AdapterBank(base)
    try:
        refused(lambda: bank.load("odd", path), *expected)
        assert bank.names == []
    finally:
        bank.detach()
    assert state(base) == before


def test_a_file_puts_no_ladder_where_inject_puts_none(tmp_path):
    """On blocks whose second-last axis is that of the rows, say."""
    base = blocks_in_a_row((STEPS, 8))
    keras_lora.inject(base, ladder())
    fill(base)
    keras_lora.save_adapter(base, tmp_path / "good")
    data = (tmp_path / "good").read_bytes()
    _, record, _ = odd_parts.parts(data)
    other = blocks_in_a_row((8,))
    keras_lora.inject(other, keras_lora.LoRAConfig(2))
    keras_lora.save_adapter(other, tmp_path / "plain")
    keras_lora.eject(other)
    record["base"] = odd_parts.parts((tmp_path / "plain").read_bytes())[1][
        "base"
    ]
    path = tmp_path / "odd"
    path.write_bytes(odd_parts.rebuilt(record, odd_parts.tensors_of(data)))
    before = state(other)
    reason = "its output is not (batch, length, features)"
    refused(lambda: keras_lora.load_adapter(other, path), reason)
    assert state(other) == before
    bank = keras_lora.AdapterBank(other)
    refused(lambda: bank.load("odd", path), reason)
    bank.detach()
