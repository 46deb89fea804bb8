"""How names, patterns, blocks and "all-linear" choose layers."""

import keras
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers

import keras_lora
from keras_lora import AdapterConfig, LoRAConfig
from keras_lora.targets.names import matches, pattern_matches, select
from tests.models import KINDS, hub

PATHS = ["stem", "block/query", "block/key", "block_1/query", "xquery"]


def test_a_name_is_a_whole_path_or_the_end_of_one():
    found, missed = select(["query"], PATHS)
    assert found == ["block/query", "block_1/query"]
    assert select(["block/query"], PATHS)[0] == ["block/query"]
    assert select(["block"], PATHS) == ([], ["block"])
    assert select(["key", "stem", "key"], PATHS) == (["stem", "block/key"], [])
    assert missed == []
    assert select(("stem", "nothing"), PATHS) == (["stem"], ["nothing"])


def test_a_regular_expression_matches_whole_paths():
    assert select(".*query", PATHS)[0] == PATHS[1:2] + PATHS[3:]
    assert select(".*/query", PATHS)[0] == ["block/query", "block_1/query"]
    assert select("query", PATHS) == ([], ["query"])
    assert select("stem|block/.*", PATHS)[0] == PATHS[:3]


def test_characters_of_expressions_mean_themselves_in_a_list():
    assert select(["b.ock/query"], PATHS)[1] == ["b.ock/query"]
    assert select(["a+b"], ["x/a+b"]) == (["x/a+b"], [])


def test_a_key_of_a_pattern_matches_a_path_or_its_end():
    assert pattern_matches("query", "block/query")
    assert pattern_matches("query|key", "block/key")
    assert pattern_matches(r"block_\d/.*", "block_1/query")
    assert not pattern_matches("query", "xquery")
    assert not pattern_matches("block", "block/query")


@given(st.lists(st.text("ab", min_size=1), min_size=1, max_size=4))
def test_every_end_of_a_path_matches_it(parts):
    path = "/".join(parts)
    for start in range(len(parts)):
        assert matches("/".join(parts[start:]), path)
    assert not matches("c" + path, path)


def blocks():
    keras.utils.set_random_seed(3)
    x = i = keras.Input((4, 6))
    for number in range(2):
        attention = layers.MultiHeadAttention(2, 3, name=f"attention_{number}")
        x = layers.LayerNormalization()(x + attention(x, x))
        x = layers.Dense(6, name=f"mix_{number}")(x)
    return keras.Model(i, layers.Dense(2)(x))


def test_targets_select_the_layers_of_a_model():
    model = blocks()
    everything = keras_lora.find_targets(model)
    assert len(everything) == 11
    assert everything[:2] == ["attention_0/query", "attention_0/key"]
    assert keras_lora.find_targets(model, ["query", "value"]) == [
        "attention_0/query",
        "attention_0/value",
        "attention_1/query",
        "attention_1/value",
    ]
    assert keras_lora.find_targets(model, r"attention_1/.*") == [
        f"attention_1/{n}"
        for n in ("query", "key", "value", "attention_output")
    ]
    assert keras_lora.find_targets(model, ["attention_0/key", "dense"]) == [
        "attention_0/key",
        "dense",
    ]


def test_inject_adapts_what_find_targets_names():
    for targets in ("all-linear", ["query", "mix_1"], ".*(key|mix_0)"):
        model = blocks()
        names = keras_lora.find_targets(model, targets)
        pattern = {names[0]: 3}
        config = LoRAConfig(2, targets=targets, rank_pattern=pattern)
        keras_lora.inject(model, config)
        rows = keras_lora.summary(model).rows
        assert [row.path for row in rows] == names
        assert [row.size.split(",")[0] for row in rows] == [
            "rank 3",
            *["rank 2"] * (len(names) - 1),
        ]
        assert keras_lora.find_targets(model, targets) == names


def test_layers_that_train_are_no_targets_of_all_linear():
    model = blocks()
    keras_lora.inject(model, LoRAConfig(2), train=["dense", "attention_1"])
    rows = keras_lora.summary(model).rows
    lora = [row.path for row in rows if row.method == "lora"]
    assert not [p for p in lora if p == "dense" or "attention_1" in p]
    assert len(lora) == 6
    trained = [row.path for row in rows if row.method == "trained"]
    assert "dense" in trained and "attention_1/query" in trained


class CallsItsOwn(layers.Dense):
    def call(self, x):
        return 2.0 * super().call(x)


class KernelOfItsOwn(layers.Dense):
    @property
    def kernel(self):
        return 2.0 * self._kernel


@pytest.mark.parametrize("Scaled", [CallsItsOwn, KernelOfItsOwn])
def test_a_layer_with_a_product_of_its_own_is_left_out_and_named(Scaled):
    model = keras.Sequential(
        [keras.Input((4,)), Scaled(3, name="scaled"), layers.Dense(2)]
    )
    with pytest.warns(UserWarning, match="of their own: scaled"):
        assert keras_lora.find_targets(model) == ["dense"]
    with pytest.raises(
        ValueError, match=f"'scaled' is a {Scaled.__name__}, no"
    ):
        keras_lora.find_targets(model, ["scaled"])


def test_bottlenecks_go_to_the_feed_forward_of_kerashub_blocks():
    keras_hub = hub()
    x = keras.Input((3, 8))
    y = keras_hub.layers.TransformerEncoder(16, 2)(x)
    model = keras.Model(x, keras_hub.layers.TransformerEncoder(16, 2)(y))
    keras_lora.inject(model, AdapterConfig(2))
    rows = keras_lora.summary(model).rows
    assert [row.path for row in rows] == [
        "transformer_encoder/feedforward_output_dense",
        "transformer_encoder_1/feedforward_output_dense",
    ]


def paths_of(model, config):
    keras_lora.inject(model, config)
    return [row.path for row in keras_lora.summary(model).rows]


@pytest.mark.parametrize(
    "chosen,numbers",
    [
        (slice(1, None), [1]),
        (slice(-2, None), [0, 1]),
        (range(1), [0]),
        ([-1], [1]),
        ((1, 0), [0, 1]),
    ],
)
@pytest.mark.parametrize("name", ["bert_backbone", "attention blocks"])
def test_layers_keep_targets_in_some_blocks(name, chosen, numbers):
    if name == "bert_backbone":
        hub()
        model, block = KINDS[name].base(), "transformer_layer_{}"
    else:
        model, block = blocks(), "attention_{}"
    expected = tuple(block.format(number) + "/" for number in numbers)
    every = keras_lora.find_targets(model)
    config = LoRAConfig(2, layers=chosen)
    assert paths_of(model, config) == [
        p for p in every if p.startswith(expected)
    ]


def test_layers_of_bottlenecks():
    hub()
    model = KINDS["bert_backbone"].base()
    config = AdapterConfig(2, layers=[1])
    assert paths_of(model, config) == [
        "transformer_layer_1/feedforward_output_dense"
    ]


def test_blocks_that_there_are_not_are_named():
    model = blocks()
    with pytest.raises(ValueError, match="no block 2, -3.*attention_0"):
        keras_lora.inject(model, LoRAConfig(2, layers=[0, 2, -3]))
    with pytest.raises(ValueError, match="no target is in slice"):
        keras_lora.inject(model, LoRAConfig(2, layers=slice(5, None)))
    with pytest.raises(ValueError, match="no repeated blocks with targets"):
        config = LoRAConfig(2, targets=["dense"], layers=[0])
        keras_lora.inject(model, config)
