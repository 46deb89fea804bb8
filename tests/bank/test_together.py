"""All tasks about the same rows, of passes that they share."""

import json

import keras
import pytest
from keras import layers

import keras_lora
from benchmarks import odd_parts
from keras_lora import LoRAConfig, SideConfig
from tests.banks import (
    Task,
    bottleneck,
    call,
    far_apart,
    loaded,
    make_task,
    off,
    rows,
    served,
)
from tests.helpers import refused
from tests.models import (
    KINDS,
    ROWS,
    STEPS,
    WORDS,
    hub,
    set_random,
    to_numpy,
    tokens,
)
from tests.presets import TASKS, TEXTS

TENSORFLOW = keras.backend.backend() == "tensorflow"
BLOCKS = 3


def ladder(width=8, heads=2):
    return SideConfig(width, heads, 0.0)


def encoder(count=BLOCKS):
    """A BERT of a few blocks."""
    base = hub().models.BertBackbone(
        vocabulary_size=WORDS,
        num_layers=count,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=16,
        dropout=0.0,
        max_sequence_length=STEPS,
    )
    set_random(base.weights)
    return base


def words():
    return tokens(with_segments=True)


def head(units):
    def on(base):
        y = layers.Dense(units)(base.output["pooled_output"])
        return keras.Model(base.input, y)

    return on


CONFIGS = {
    "narrow": (ladder(), head(2)),
    "narrow-2": (ladder(), head(3)),
    "wide": (ladder(20, 4), head(2)),
    "features": (ladder(), None),
    "last": (LoRAConfig(2, layers=slice(-1, None)), head(2)),
    "last-two": (LoRAConfig(3, layers=slice(-2, None)), head(4)),
    "all": (LoRAConfig(2), head(2)),
    "bottleneck": (bottleneck(targets=["transformer_layer_2"]), None),
}


def head_alone(task, path):
    """The head of a task on the base as it is."""
    _, record, _ = odd_parts.parts(task.path.read_bytes())
    record["layers"] = {}
    tensors = {
        key: value
        for key, value in odd_parts.tensors_of(task.path.read_bytes()).items()
        if key.startswith("@head/")
    }
    path.write_bytes(odd_parts.rebuilt(record, tensors))
    base = encoder()
    top = keras_lora.inspect_adapter(path).build_head()
    y = top(call(base, words())["pooled_output"])
    return Task(path, to_numpy(y))


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """A task of each kind on `encoder()`."""
    folder, base = tmp_path_factory.mktemp("together"), encoder()
    made = {
        name: make_task(
            base, folder / name, config, words(), head=on, seed=number, size=0.2
        )
        for number, (name, (config, on)) in enumerate(CONFIGS.items(), 1)
    }
    return {**made, "head": head_alone(made["narrow-2"], folder / "head")}


@pytest.fixture(scope="module")
def bank(tasks):
    with served(encoder()) as bank:
        yield loaded(bank, tasks)


def assert_own(got, tasks, slot=slice(None)):
    """Each task's outputs are those of its own model."""
    for name, outputs in got.items():
        expected = keras.tree.map_structure(
            lambda y: y[slot], tasks[name].outputs
        )
        assert off(outputs, expected) < 1e-5, name


def test_each_adapter_answers_as_alone(bank, tasks):
    got = bank.predict_all(words())
    assert list(got) == list(tasks) == bank.names
    assert_own(got, tasks)
    assert all(
        far_apart(got["narrow"], got[name]) for name in ("wide", "last", "all")
    )
    for name in ("narrow", "last", "all", "head"):
        assert off(got[name], bank.predict(words(), adapter=name)) < 1e-5


def test_names_are_answered_in_their_order(bank, tasks):
    names = ["all", "narrow-2", "last"]
    got = bank.predict_all(words(), names)
    assert list(got) == names
    assert_own(got, tasks)
    assert list(bank.predict_all(words(), "wide")) == ["wide"]
    assert bank.predict_all(words(), []) == {}


@pytest.mark.extra
def test_many_batches_are_those_of_one(bank, tasks):
    for size in (1, 3):
        assert_own(bank.predict_all(words(), batch_size=size), tasks)


@pytest.mark.slow
def test_more_adapters_than_slots_are_brought_in_one_after_another(tasks):
    with served(encoder(), capacity=2) as bank:
        bank.model.run_eagerly = True
        loaded(bank, tasks)
        assert_own(bank.predict_all(words(), batch_size=2), tasks)
        assert bank.cache_misses >= len(tasks)


def test_no_rows_have_outputs_of_no_rows(bank, tasks):
    nothing = {name: values[:0] for name, values in words().items()}
    got = bank.predict_all(nothing)
    for name, task in tasks.items():
        shapes = [y.shape for y in keras.tree.flatten(got[name])]
        assert shapes == [
            (0, *y.shape[1:]) for y in keras.tree.flatten(task.outputs)
        ]


def test_what_is_wrong_is_listed_at_once(bank, tasks):
    refused(
        lambda: bank.predict_all(words(), ["a", "narrow", "b"], batch_size=0),
        "'a'",
        "'b'",
        "narrow, narrow-2, wide",
        "batch_size=0",
    )
    refused(lambda: bank.predict_all(words(), "c"), "'c'")
    for adapters in (5, {"all"}, object()):
        refused(
            lambda a=adapters: bank.predict_all(words(), a),
            "`adapters` must be",
        )
    assert_own(bank.predict_all(words(), ["wide"]), tasks)


def watched(base, path="transformer_layer_0"):
    """Counts eager runs of a layer of the base."""
    runs = []
    layer = base.get_layer(path)
    dense = layer._feedforward_intermediate_dense
    activation = dense.activation

    def counted(x):
        runs.append(x.shape[0])
        return activation(x)

    dense.activation = counted
    return runs


@pytest.mark.parametrize(
    ("names", "first", "last"),
    [
        (["narrow"], 1, 1),
        (["narrow", "narrow-2", "features"], 1, 1),
        (["last", "last-two"], 1, 2),
        (["all"], 1, 1),
        (["narrow", "all"], 2, 2),
        (["head", "narrow", "narrow-2"], 1, 1),
    ],
)
def test_what_adapters_share_is_run_once(tasks, names, first, last):
    base = encoder()
    early = watched(base)
    late = watched(base, "transformer_layer_2")
    with served(base) as bank:
        bank.model.run_eagerly = True
        for name in names:
            bank.load(name, tasks[name].path)
        bank.predict_all(words())  # what is made at first runs layers, too
        early.clear(), late.clear()
        got = bank.predict_all(words())
        assert (len(early), len(late)) == (first, last)
        assert set(early) == set(late) == {ROWS}
        assert_own(got, tasks)


def test_heads_alone_share_all_of_the_base(tasks):
    base = encoder()
    runs = watched(base)
    with served(base) as bank:
        bank.model.run_eagerly = True
        for name in ("one", "two"):
            bank.load(name, tasks["head"].path)
        bank.predict_all(words())
        runs.clear()
        got = bank.predict_all(words())
        assert len(runs) == 1
        assert_own(got, {name: tasks["head"] for name in got})


@pytest.mark.extra
def test_the_bank_may_change_between_calls(tasks):
    with served(encoder(), capacity=2) as bank:
        bank.load("one", tasks["narrow"].path)
        expected = {"one": tasks["narrow"]}
        assert_own(bank.predict_all(words()), expected)
        for name in ("wide", "last", "narrow-2", "all"):
            bank.load(name, tasks[name].path)
            assert_own(bank.predict_all(words()), {**tasks, **expected})
        bank.load("one", tasks["features"].path)
        expected = {**tasks, "one": tasks["features"]}
        assert_own(bank.predict_all(words()), expected)
        bank.load("one", tasks["last-two"].path)
        expected = {**tasks, "one": tasks["last-two"]}
        assert_own(bank.predict_all(words()), expected)
        bank.unload("wide")
        got = bank.predict_all(words())
        assert set(got) == {"one", "last", "narrow-2", "all"}
        assert_own(got, expected)


@pytest.mark.slow
def test_the_base_is_as_it_was_after_detach(tasks):
    base = encoder()
    plain = call(base, words())
    with served(base) as bank:
        bank.load("narrow", tasks["narrow"].path)
        bank.predict_all(words())
        bank.detach()
        assert off(call(base, words()), plain) == 0
        with pytest.raises(ValueError, match="detach"):
            bank.predict_all(words())
    assert {type(la).__name__ for la in base.layers} == {
        type(la).__name__ for la in encoder().layers
    }
    with served(base) as bank:
        bank.load("wide", tasks["wide"].path)
        assert_own(bank.predict_all(words()), tasks)


def test_rows_of_a_mixed_batch_climb_their_own_ladders(bank, tasks):
    plain = call(encoder(), words())
    for names in (
        ["narrow", "narrow-2", "wide", None],
        ["all", "features", "narrow", "last"],
        [None, "wide", "bottleneck", "wide"],
    ):
        got = bank.predict(words(), adapter=names)
        for number, name in enumerate(names):
            outputs = tasks[name].outputs if name else plain
            expected = keras.tree.map_structure(
                lambda y, n=number: y[n], outputs
            )
            assert off(got[number], expected) < 1e-5, (names, number)


@pytest.mark.slow
def test_ladders_that_begin_at_other_blocks_stand_side_by_side(tmp_path):
    base, x = encoder(4), words()
    made = {
        name: make_task(
            base,
            tmp_path / name,
            SideConfig(8, 2, 0.0, layers=blocks),
            x,
            seed=seed,
        )
        for seed, (name, blocks) in enumerate(
            {"early": [0, 1, 2], "late": [1, 2, 3], "later": [2, 3]}.items()
        )
    }
    with served(base) as bank:
        bank.model.run_eagerly = True
        loaded(bank, made)
        names = ["early", "late", "later", "late"]
        for number, row in enumerate(bank.predict(x, adapter=names)):
            assert off(row, made[names[number]].row(number)) < 1e-5
        assert_own(bank.predict_all(x), made)


def test_plain_calls_follow_a_ladder(bank, tasks):
    plain = call(encoder(), words())
    with bank.using("features") as base:
        for y in (call(base, words()), base.predict(words(), verbose=0)):
            assert off(y, tasks["features"].outputs) < 1e-5
    assert off(bank.predict(words()), plain) < 1e-5


def test_a_saved_bank_has_its_ladders(bank, tasks, tmp_path):
    bank.save(tmp_path / "bank")
    base = encoder()
    again = keras_lora.AdapterBank.restore(base, tmp_path / "bank")
    assert_own(again.predict_all(words(), ["wide", "narrow"]), tasks)
    again.detach()


@pytest.mark.slow
@pytest.mark.skipif(not TENSORFLOW, reason="`export` is TensorFlow's")
def test_an_exported_bank_has_its_ladders(tasks, tmp_path):
    import tensorflow as tf

    names = ["narrow", "wide", "last"]
    with served(encoder()) as bank:
        for name in names:
            bank.load(name, tasks[name].path)
        bank.export(tmp_path / "saved")
    table = json.loads((tmp_path / "saved/adapters.json").read_text())
    serve = tf.saved_model.load(tmp_path / "saved").signatures[
        "serving_default"
    ]
    ids = table["adapters"]
    order = ["narrow", "wide", "last", "narrow"]
    inputs = {
        name: tf.constant(values, spec.dtype)
        for name, spec in serve.structured_input_signature[1].items()
        for values in [
            [ids[n] for n in order] if name == "adapter_ids" else words()[name]
        ]
    }
    outputs = serve(**inputs)
    for number, name in enumerate(order):
        got = outputs[name].numpy()[number]
        assert off(got, tasks[name].row(number)) < 1e-5, name


@pytest.mark.slow
def test_texts_are_prepared_once_for_all(tmp_path):
    base = TASKS["TextClassifier"]()
    x = base.preprocess_samples(TEXTS)
    x, *_ = keras.utils.unpack_x_y_sample_weight(x)
    x = {k: keras.ops.convert_to_numpy(v) for k, v in x.items()}
    made = {
        name: make_task(
            base,
            tmp_path / name,
            SideConfig(8, 2, targets=["transformer_layer_0"])
            if name != "lora"
            else LoRAConfig(2),
            x,
            seed=seed,
        )
        for seed, name in enumerate(["a", "b", "lora"])
    }
    with served(base) as bank:
        loaded(bank, made)
        calls = []
        prepare = base.preprocessor.call
        base.preprocessor.call = lambda *args, **kwargs: (
            calls.append(1),
            prepare(*args, **kwargs),
        )[1]
        assert_own(bank.predict_all(TEXTS, batch_size=3), made)
        assert len(calls) == 1
        assert [y.shape for y in bank.predict_all([]).values()] == [(0, 2)] * 3


def test_a_base_without_a_graph_is_run_for_each(tmp_path):
    kind = KINDS["subclassed"]
    base, x = kind.base(), kind.inputs()
    made = {
        f"t{rank}": make_task(
            base, tmp_path / f"t{rank}", LoRAConfig(rank), x, seed=rank
        )
        for rank in (1, 2)
    }
    made["top"] = make_task(
        base, tmp_path / "top", LoRAConfig(2, targets=["dense_4"]), x
    )
    with served(base) as bank:
        loaded(bank, made)
        assert_own(bank.predict_all(x), made)
        assert_own(bank.predict_all(x, batch_size=3), made)


def test_a_dense_base_shares_what_comes_before_its_last_layers(tmp_path):
    x = inputs = keras.Input((6,))
    for _ in range(4):
        x = layers.Dense(6, activation="tanh")(x)
    base = keras.Model(inputs, x)
    set_random(base.weights)
    made = {
        "late": LoRAConfig(2, targets=["dense_3"]),
        "later": LoRAConfig(3, targets=["dense_3"]),
        "early": LoRAConfig(2, targets=["dense_1", "dense_3"]),
        "wide": LoRAConfig(20, targets=["dense_2"]),
    }
    made = {
        name: make_task(base, tmp_path / name, config, rows(5), seed=n)
        for n, (name, config) in enumerate(made.items())
    }
    with served(base) as bank:
        loaded(bank, made)
        for size in (2, 32):
            assert_own(bank.predict_all(rows(5), batch_size=size), made)


@pytest.mark.slow
@pytest.mark.filterwarnings("error:.*passed an input with a mask")
def test_a_keras_mask_is_seen_by_ladders_of_a_bank(tmp_path):
    inputs = keras.Input((None,), dtype="int32")
    x = layers.Embedding(WORDS, 8, mask_zero=True)(inputs)
    for number in range(2):
        x = hub().layers.TransformerEncoder(16, 2, name=f"block_{number}")(x)
    base = keras.Model(inputs, x)
    set_random(base.weights)
    x = words()["token_ids"]
    made = {
        name: make_task(base, tmp_path / name, ladder(), x, seed=seed)
        for seed, name in enumerate("ab")
    }
    with served(base) as bank:
        loaded(bank, made)
        assert_own(bank.predict_all(x), made)
        short = bank.predict_all(x[:1, :2])["a"]
        assert off(made["a"].outputs[:1, :2], short) < 1e-5
        got = bank.predict(x, adapter=list("abab"))
        for number, name in enumerate("abab"):
            assert off(got[number], made[name].row(number)) < 1e-5
