"""The two configs: what they hold, refuse, and give each layer."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import layers

import keras_lora
from keras_lora import AdapterConfig, LoRAConfig
from tests.helpers import fill, numpy_of
from tests.models import set_random

PATHS = ["stem", "block/query", "block/key", "block_1/query", "xquery"]


def test_defaults_are_those_of_the_design():
    assert dataclasses.asdict(LoRAConfig()) == {
        "rank": 8,
        "alpha": 16,
        "dropout": 0.0,
        "targets": "all-linear",
        "rank_pattern": {},
        "alpha_pattern": {},
        "scale": "lora",
        "layers": None,
        "init": "random",
    }
    config = AdapterConfig()
    assert config.bottleneck is config.targets is None
    assert (config.reduction_factor, config.activation) == (16, "relu")
    assert LoRAConfig() == LoRAConfig()


@pytest.mark.parametrize("config", [LoRAConfig(), AdapterConfig()])
def test_a_config_does_not_change(config):
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.targets = "x"


def test_everything_wrong_is_listed_at_once():
    with pytest.raises(ValueError) as error:
        LoRAConfig(
            0, -1, 2, 5, {"(": True}, {"a": float("inf")}, "half", [True], "eva"
        )
    for word in (
        "rank=0",
        "alpha=-1",
        "dropout=2",
        "targets=5",
        "`key of rank_pattern` is no regular expression",
        "rank_pattern['(']=True",
        "alpha_pattern['a']=inf",
        "scale='half'",
        "layers=[True]",
        "EVA(batches). Received: init='eva'",
    ):
        assert word in str(error.value)
    with pytest.raises(ValueError) as error:
        AdapterConfig(0, 0, 3, [""], dropout=1, layer_norm=1, layers=2)
    for word in (
        "bottleneck=0",
        "reduction_factor=0",
        "activation=3",
        "targets=['']",
        "dropout=1",
        "layer_norm=1",
        "layers=2",
    ):
        assert word in str(error.value)


@pytest.mark.parametrize("value", [3, ["a"], "a", None])
def test_a_pattern_that_is_no_mapping_is_refused(value):
    with pytest.raises(ValueError, match="rank_pattern"):
        LoRAConfig(rank_pattern=value)


def test_the_first_key_that_matches_counts():
    config = LoRAConfig(
        8,
        rank_pattern={"block/query": 4, "query": 2, "stem": 1},
        alpha_pattern={".*query": 32},
    )
    ranks = [config.settings_for(path)["rank"] for path in PATHS]
    alphas = [config.settings_for(path)["alpha"] for path in PATHS]
    assert ranks == [1, 4, 8, 2, 8]
    assert alphas == [16, 32, 16, 32, 32]


def test_rslora_divides_by_the_root_of_each_rank():
    config = LoRAConfig(16, alpha=8, scale="rslora", rank_pattern={"stem": 4})
    for path, rank in (("stem", 4), ("block/query", 16)):
        settings = config.settings_for(path)
        assert settings["rank"] == rank
        scale = settings["alpha"] / settings["rank"]
        assert scale == pytest.approx(8 / rank**0.5)


def test_rslora_scales_what_an_adapted_layer_adds(tmp_path):
    x = np.ones((2, 5), "float32")
    added = {}
    for scale in ("lora", "rslora"):
        model = keras.Sequential([keras.Input((5,)), layers.Dense(3)])
        set_random(model.weights)
        before = numpy_of(model(x))
        config = LoRAConfig(4, alpha=2, scale=scale)
        fill(keras_lora.inject(model, config))
        added[scale] = numpy_of(model(x)) - before
        path = tmp_path / scale
        keras_lora.save_adapter(model, path)
        keras_lora.load_adapter(keras_lora.eject(model), path)
        np.testing.assert_array_equal(numpy_of(model(x)) - before, added[scale])
    np.testing.assert_allclose(added["rslora"], 2 * added["lora"], rtol=1e-4)
