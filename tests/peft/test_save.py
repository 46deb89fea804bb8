"""Adapters of ours go out as PEFT folders, and come back as they were."""

import json

import keras
import numpy as np
import pytest
from keras import layers
from safetensors.numpy import load_file

import keras_lora
from keras_lora.peft.hub import Port
from tests.helpers import fill, hosts_of, numpy_of, state
from tests.peft.families import FAMILIES, tiny
from tests.peft.fixtures import (
    DATA,
    Expected,
    as_dora,
    backbone,
    fixture_copy,
    small_base,
)

LORA = keras_lora.LoRAConfig(rank=3, alpha=6)
PREFIXES = {"gpt2": "transformer.", "bert": "bert."}


def stored(folder):
    config = json.loads((folder / "adapter_config.json").read_text())
    return config, load_file(folder / "adapter_model.safetensors")


def weights(model):
    return {
        (number, name): numpy_of(value)
        for number, host in enumerate(hosts_of(model))
        for name, value in host.adapter_weights.items()
    }


@pytest.mark.parametrize(
    "name",
    ["llama/all_linear", "gemma/all", "gpt2/c_attn", "bert/qv"],
)
def test_a_folder_goes_out_as_it_came_in(tmp_path, name):
    family = name.split("/")[0]
    base = backbone(family)
    keras_lora.load_peft(base, DATA / name)
    prefix = PREFIXES.get(family, "")
    keras_lora.save_peft(
        base,
        tmp_path / "out",
        prefix=prefix,
        base_model="some/base",
        task_type="CAUSAL_LM",
    )
    config, tensors = stored(tmp_path / "out")
    before, theirs = stored(DATA / name)
    assert tensors.keys() == theirs.keys()
    for key, value in theirs.items():
        np.testing.assert_array_equal(tensors[key], value)
    for key in ("r", "lora_alpha", "fan_in_fan_out", "use_dora", "bias"):
        assert config[key] == before[key], key
    assert config["rank_pattern"] == config["alpha_pattern"] == {}
    assert config["base_model_name_or_path"] == "some/base"
    assert config["task_type"] == "CAUSAL_LM"
    modules = {k.rpartition(".lora_")[0] for k in theirs}
    assert config["target_modules"] == sorted(
        m.removeprefix("base_model.model.") for m in modules
    )


def test_one_scale_stands_for_all_modules(tmp_path):
    """rsLoRA and patterns: what a scale differs by is in `lora_B`."""
    expected = Expected("llama/rslora_pattern")
    base = backbone("llama")
    keras_lora.load_peft(base, DATA / "llama/rslora_pattern")
    keras_lora.save_peft(base, tmp_path / "out")
    config, tensors = stored(tmp_path / "out")
    assert config["r"] == 8 and config["use_rslora"] is False
    scale = config["lora_alpha"] / config["r"]
    for module, rank in config["rank_pattern"].items():
        key = f"base_model.model.{module}.lora_A.weight"
        assert tensors[key].shape[0] == rank
        assert config["alpha_pattern"][module] / rank == pytest.approx(scale)
    again = backbone("llama")
    keras_lora.load_peft(again, tmp_path / "out")
    got = expected.of(again)
    np.testing.assert_allclose(got, expected.adapted, atol=1e-4)


def test_dora_and_norms_come_back(tmp_path):
    for name in ("dora", "norms"):
        base = backbone("llama")
        folder = DATA / "llama/norm_saved"
        if name == "dora":
            folder = fixture_copy(tmp_path, "llama/all_linear", as_dora())
        keras_lora.load_peft(base, folder)
        keras_lora.save_peft(base, tmp_path / name)
        config, tensors = stored(tmp_path / name)
        _, theirs = stored(folder)
        assert tensors.keys() == theirs.keys()
        for key, value in theirs.items():
            np.testing.assert_allclose(tensors[key], value, rtol=1e-6)
        assert config["use_dora"] is (name == "dora")
        norms = [f"model.layers.{n}.input_layernorm" for n in (0, 1)]
        assert config["modules_to_save"] == (norms if name == "norms" else None)


@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "smollm3"])
def test_every_family_goes_out_and_comes_back(tmp_path, family):
    if family == "swin":
        pytest.skip("its query, key and value are one layer in KerasHub")
    base = tiny(family)
    keras_lora.inject(base, LORA)
    fill(base)
    before = weights(base)
    keras_lora.save_peft(base, tmp_path / "out")
    keras_lora.eject(base)
    keras_lora.load_peft(base, tmp_path / "out")
    after = weights(base)
    if family != "gpt2":  # where query, key and value had an `A` each
        assert before.keys() == after.keys()
        for key, value in before.items():
            np.testing.assert_array_equal(after[key], value)


def test_layers_of_a_fused_module_stand_side_by_side(tmp_path):
    """GPT-2's query and value share `c_attn`, and here have ranks 3 and 5."""
    base = tiny("gpt2")
    config = keras_lora.LoRAConfig(
        rank=3, alpha=6, targets=["query", "value"], rank_pattern={"value": 5}
    )
    keras_lora.inject(base, config)
    fill(base)
    kernels = [numpy_of(host.delta_kernel()) for host in hosts_of(base)]
    keras_lora.save_peft(base, tmp_path / "out")
    config, tensors = stored(tmp_path / "out")
    assert config["fan_in_fan_out"] is True
    assert config["target_modules"] == ["h.0.attn.c_attn", "h.1.attn.c_attn"]
    a = tensors["base_model.model.h.0.attn.c_attn.lora_A.weight"]
    assert a.shape == (8, 16)
    keras_lora.eject(base)
    keras_lora.load_peft(base, tmp_path / "out")
    again = [numpy_of(host.delta_kernel()) for host in hosts_of(base)]
    query, key, value = again[:3]
    np.testing.assert_allclose(query, kernels[0], atol=1e-5)
    np.testing.assert_allclose(value, kernels[1], atol=1e-5)
    assert np.abs(kernels[0]).max() > 0.1 and np.abs(key).max() == 0


def test_layers_that_trained_whole_go_out_in_torchs_layout(tmp_path):
    """Every weight that a checkpoint has, kernels and tables included."""
    for family in ("gpt2", "llama", "bert", "gemma"):
        base = backbone(family)
        blocks = [p for p in ("query", "feedforward_output_dense")]
        train = [
            layer.name
            for layer in base.layers
            if layer.weights and "_layer_1" not in layer.name
        ]
        if family == "gemma":
            blocks, train = ["query"], train[1:]
            train = [n for n in train if n != "decoder_block_1"]
            targets = ["decoder_block_1/attention/query"]
        else:
            targets = [
                p
                for p in keras_lora.find_targets(base, blocks)
                if "_layer_1" in p
            ]
        keras_lora.inject(
            base, keras_lora.LoRAConfig(targets=targets), train=train
        )
        folder = tmp_path / family
        keras_lora.save_peft(base, folder)
        _, tensors = stored(folder)
        checkpoint = load_file(DATA / family / "checkpoint/model.safetensors")
        compared = 0
        for key, value in tensors.items():
            name = key.removeprefix("base_model.model.")
            if "lora_" in name:
                continue
            (theirs,) = [
                v
                for k, v in checkpoint.items()
                if k in (name, f"bert.{name}", f"transformer.{name}")
            ]
            np.testing.assert_array_equal(value, theirs)
            compared += 1
        assert compared > 8


def test_a_head_goes_along_under_torchs_name(tmp_path):
    base = backbone("bert")
    keras_lora.load_peft(base, DATA / "bert/qv")
    top = layers.Dense(3, name="classifier")
    model = keras.Model(base.input, top(base(base.input)["pooled_output"]))
    keras_lora.save_peft(model, tmp_path / "out", prefix="bert")
    config, tensors = stored(tmp_path / "out")
    assert config["modules_to_save"] == ["classifier"]
    np.testing.assert_array_equal(
        tensors["base_model.model.classifier.weight"], numpy_of(top.kernel).T
    )
    other = layers.Dense(3, name="top")
    model = keras.Model(base.input, other(base(base.input)["pooled_output"]))
    with pytest.raises(ValueError, match="top: it trained outside"):
        keras_lora.save_peft(model, tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    "config, word",
    [
        (keras_lora.AdapterConfig(bottleneck=4), "bottleneck"),
        (keras_lora.IA3Config(targets=["query"]), "ia3"),
        (
            keras_lora.LoRAConfig(targets=["token_embedding"]),
            "token_embedding: it comes from no linear module",
        ),
    ],
)
def test_what_has_no_like_in_peft_is_named(tmp_path, config, word):
    base = backbone("llama")
    fill(keras_lora.inject(base, config))
    before = state(base)
    with pytest.raises(ValueError, match=word):
        keras_lora.save_peft(base, tmp_path / "out")
    assert state(base) == before
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_a_converter_is_refused(tmp_path):
    base = small_base()
    fill(keras_lora.inject(base, LORA))
    with pytest.raises(ValueError, match="no KerasHub backbone"):
        keras_lora.save_peft(base, tmp_path / "out")
    with pytest.raises(ValueError, match="no adapter"):
        keras_lora.save_peft(small_base(), tmp_path / "out")


def test_equal_adapters_give_equal_bytes_and_replace_a_folder(tmp_path):
    base = backbone("llama")
    keras_lora.load_peft(base, DATA / "llama/all_linear")
    out = tmp_path / "out"
    keras_lora.save_peft(base, out)
    first = {p.name: p.read_bytes() for p in out.iterdir()}
    keras_lora.save_peft(base, out)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == first
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    for host in hosts_of(base):
        host.lora_b.assign(np.full(host.lora_b.shape, np.nan))
    with pytest.raises(ValueError, match="not finite"):
        keras_lora.save_peft(base, out)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == first
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"other files: notes\.txt"):
        keras_lora.save_peft(base, out)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="no folder"):
        keras_lora.save_peft(base, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_wrong_names_are_refused(tmp_path):
    base = backbone("llama")
    keras_lora.load_peft(base, DATA / "llama/all_linear")
    for wrong in ({"prefix": 3}, {"base_model": None}, {"task_type": 3}):
        with pytest.raises(ValueError, match="must be a string"):
            keras_lora.save_peft(base, tmp_path / "out", **wrong)


def test_a_tensor_is_restored_through_any_hook():
    from keras_lora.peft.export import restored

    def moved(tensor, shape):
        return np.transpose(tensor, (2, 3, 1, 0))

    value = np.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5)
    back = restored([Port("k", "p", "kernel", value.shape, moved)], [value])
    np.testing.assert_array_equal(moved(back, None), value)
