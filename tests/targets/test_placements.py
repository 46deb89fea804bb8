"""Where bottlenecks go by name, in KerasHub's blocks and in those by hand."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_lora
from keras_lora import AdapterConfig
from tests.banks import assert_rows, call, make_task, served
from tests.helpers import numpy_of
from tests.marks import pairs
from tests.models import (
    KINDS,
    compile_for,
    features,
    fit,
    hub,
    labels_for,
    register,
    set_random,
)

PLACEMENTS = ["pfeiffer", "houlsby", "parallel"]


def flat():
    """Blocks written out in a functional model."""
    x = inputs = keras.Input((5, 8))
    for number in range(2):
        attend = layers.MultiHeadAttention(2, 4, name=f"attention_{number}")
        x = layers.LayerNormalization()(x + attend(query=x, value=x))
        y = layers.Dense(16, activation="gelu", name=f"up_{number}")(x)
        y = layers.Dense(8, name=f"down_{number}")(layers.Dropout(0.0)(y))
        x = layers.LayerNormalization()(x + y)
    return keras.Model(inputs, layers.Dense(8, name="top")(x))


@register
class TransformerBlock(layers.Layer):
    """A block with its layers in attributes, the feed-forward part nested."""

    def __init__(self, width=8, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.attend = layers.MultiHeadAttention(2, 4, name="attend")
        self.norm = layers.LayerNormalization(name="norm")
        self.feed = keras.Sequential(
            [
                layers.Dense(2 * width, activation="relu", name="up"),
                layers.Dense(width, name="down"),
            ],
            name="feed",
        )

    def call(self, x):
        x = self.norm(x + self.attend(x, x))
        return x + self.feed(x)

    def get_config(self):
        return {**super().get_config(), "width": self.width}


def nested():
    """Blocks of a class of one's own, one of grouped attention beside."""
    x = inputs = keras.Input((5, 8))
    for number in range(2):
        x = TransformerBlock(name=f"block_{number}")(x)
    return keras.Model(inputs, layers.Dense(3, name="top")(x))


MODELS = {
    "flat": (
        flat,
        {
            "attention": ["attention_0", "attention_1"],
            "feed": ["down_0", "down_1"],
        },
    ),
    "by class": (
        nested,
        {
            "attention": ["block_0/attend", "block_1/attend"],
            "feed": ["block_0/feed/down", "block_1/feed/down"],
        },
    ),
    "bert_backbone": (
        lambda: KINDS["bert_backbone"].base(),
        {
            "attention": [
                f"transformer_layer_{n}/self_attention_layer" for n in (0, 1)
            ],
            "feed": [
                f"transformer_layer_{n}/feedforward_output_dense"
                for n in (0, 1)
            ],
        },
    ),
}


def expected(places, placement):
    outputs = [f"{path}/attention_output" for path in places["attention"]]
    both = zip(outputs, places["feed"], strict=True)
    return {
        "pfeiffer": places["feed"],
        "houlsby": [path for pair in both for path in pair],
        "parallel": places["attention"],
    }[placement]


def batch(name):
    kind = KINDS.get(name)
    return kind.inputs() if kind else features(5, 8)


@pytest.fixture(params=pairs(["flat", "bert_backbone"], MODELS))
def model(request):
    name = request.param
    if name in KINDS:
        hub()
    build, places = MODELS[name]
    base = build()
    set_random(base.weights)
    return base, places, batch(name)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_placement_finds_its_layers(placement, model):
    base, places, x = model
    before = call(base, x)
    keras_lora.inject(base, AdapterConfig(2, placement=placement))
    rows = keras_lora.summary(base).rows
    assert [row.path for row in rows] == expected(places, placement)
    method = "parallel" if placement == "parallel" else "bottleneck"
    assert {row.method for row in rows} == {method}
    for one, other in zip(
        keras.tree.flatten(before),
        keras.tree.flatten(call(base, x)),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)
    labels = labels_for(base, x)
    compile_for(base, labels, eagerly=placement != "houlsby")
    assert np.isfinite(fit(base, x, labels)).all()


@pytest.mark.extra
def test_rows_of_every_placement_share_a_batch(model, tmp_path):
    base, _, x = model
    tasks = {
        name: make_task(
            base,
            tmp_path / name,
            AdapterConfig(2 + number, placement=name, activation="tanh"),
            x,
            seed=number,
        )
        for number, name in enumerate(PLACEMENTS)
    }
    names = ["parallel", None, "houlsby", "pfeiffer"]
    plain = call(base, x)
    with served(base) as bank:
        for name, task in tasks.items():
            bank.load(name, task.path)
        assert_rows(bank.predict(x, adapter=names), names, tasks, plain)


def test_a_parallel_adapter_is_the_formula():
    model = keras.Sequential([keras.Input((5,)), layers.Dense(3)])
    set_random(model.weights)
    x = features(5)
    plain = numpy_of(model(x))
    config = AdapterConfig(
        2, activation="tanh", targets=["dense"], placement="parallel", scale=4
    )
    keras_lora.inject(model, config)
    set_random(model.trainable_variables, seed=2)
    w = {
        name: numpy_of(v) for name, v in model.layers[0].adapter_weights.items()
    }
    assert w["down_kernel"].shape == (5, 2) and w["up_kernel"].shape == (2, 3)
    h = np.tanh(x @ w["down_kernel"] + w["down_bias"])
    expected = plain + 4 * (h @ w["up_kernel"] + w["up_bias"])
    np.testing.assert_allclose(numpy_of(model(x)), expected, atol=1e-5)


def test_targets_stand_in_for_a_placement_and_layers_narrow_it():
    model = flat()
    config = AdapterConfig(2, targets=["top"], placement="houlsby")
    keras_lora.inject(model, config)
    assert [row.path for row in keras_lora.summary(model).rows] == ["top"]
    keras_lora.eject(model)
    config = AdapterConfig(2, placement="houlsby", layers=[1])
    keras_lora.inject(model, config)
    assert [row.path for row in keras_lora.summary(model).rows] == [
        "attention_1/attention_output"
    ]


def test_what_has_no_place_is_refused():
    for options, words in (
        ({"placement": "beside"}, "placement='beside'"),
        ({"scale": 2.0}, '`scale` is for placement="parallel" alone'),
        ({"placement": "parallel", "scale": 0}, "scale=0"),
    ):
        with pytest.raises(ValueError, match=words):
            AdapterConfig(2, **options)
    model = keras.Sequential(
        [
            keras.Input((4, 5)),
            layers.Dense(3),
            layers.GlobalAveragePooling1D(),
        ]
    )
    for placement in PLACEMENTS:
        with pytest.raises(ValueError, match="no place known for"):
            keras_lora.inject(model, AdapterConfig(2, placement=placement))
    config = AdapterConfig(
        2, targets=["global_average_pooling1d"], placement="parallel"
    )
    with pytest.raises(ValueError, match="its input is .* and its output"):
        keras_lora.inject(model, config)
