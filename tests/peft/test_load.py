"""PEFT folders load into Keras models and compute what torch computes."""

import json

import keras
import numpy as np
import pytest
from keras import layers, ops
from safetensors.numpy import load_file

import keras_lora
from tests.helpers import hosts_of, normal, numpy_of, state
from tests.peft.fixtures import (
    ADAPTERS,
    DATA,
    LOADED,
    NAMES,
    Expected,
    backbone,
    factors,
    fixture_copy,
    small_base,
    write_folder,
)


def off(some, others):
    return float(np.abs(some - others).max())


@pytest.mark.parametrize("name", LOADED)
def test_a_folder_computes_what_torch_computes(name):
    expected = Expected(name)
    base = backbone(expected.family)
    before = expected.of(base)
    assert off(before, expected.plain) < 1e-4
    assert keras_lora.load_peft(base, DATA / name, head=False) is base
    assert off(expected.of(base), expected.adapted) < 1e-4
    assert off(expected.adapted, before) > 0.1
    keras_lora.eject(base)
    assert off(expected.of(base), before) == 0


@pytest.mark.parametrize(
    "name, setting",
    [("llama/refuse_lora_bias", "lora_bias"), ("llama/refuse_ia3", "IA3")],
)
def test_a_refused_setting_is_named_and_nothing_changes(name, setting):
    base = backbone("llama")
    before = state(base)
    with pytest.raises(ValueError, match=setting):
        keras_lora.load_peft(base, DATA / name)
    assert state(base) == before


def test_all_fixtures_are_covered():
    assert len(ADAPTERS) == 9 and len(LOADED) == 7


def classifier(base, units=3):
    x = base.input
    return keras.Model(x, layers.Dense(units)(base(x)["pooled_output"]))


def test_a_classifier_goes_into_the_head_that_fits():
    folder = DATA / "bert/seq_cls_head"
    theirs = load_file(folder / "adapter_model.safetensors")
    base = backbone("bert")
    model = classifier(base)
    keras_lora.load_peft(model, folder)
    head = model.layers[-1]
    key = "base_model.model.classifier"
    np.testing.assert_array_equal(
        numpy_of(head.kernel), theirs[f"{key}.weight"].T
    )
    np.testing.assert_array_equal(numpy_of(head.bias), theirs[f"{key}.bias"])
    expected = Expected("bert/seq_cls_head")
    assert off(expected.of(base), expected.adapted) < 1e-4


def test_a_classifier_that_fits_nowhere_is_named():
    folder = DATA / "bert/seq_cls_head"
    for model in (backbone("bert"), classifier(backbone("bert"), units=4)):
        before = state(model)
        with pytest.raises(ValueError, match=r"classifier \(bias \(3,\)"):
            keras_lora.load_peft(model, folder)
        assert state(model) == before


def test_a_loaded_adapter_is_one_like_any_other(tmp_path):
    """It is saved, loaded again and merged as one that was trained here."""
    expected = Expected("llama/norm_saved")
    base = backbone("llama")
    keras_lora.load_peft(base, DATA / "llama/norm_saved")
    keras_lora.save_adapter(base, tmp_path / "task.safetensors")
    keras_lora.eject(base)
    keras_lora.load_adapter(base, tmp_path / "task.safetensors")
    assert off(expected.of(base), expected.adapted) < 1e-4
    keras_lora.merge(base)
    assert off(expected.of(base), expected.adapted) < 1e-4


def test_a_folder_goes_into_a_model_that_is_adapted_alike():
    expected = Expected("llama/all_linear")
    base = backbone("llama")
    keras_lora.load_peft(base, DATA / "llama/all_linear")
    for layer in hosts_of(base):
        layer.lora_b.assign(np.zeros(layer.lora_b.shape))
    keras_lora.load_peft(base, DATA / "llama/all_linear")
    assert off(expected.of(base), expected.adapted) < 1e-4
    before = state(base)
    with pytest.raises(ValueError, match="`eject` the model's adapter first"):
        keras_lora.load_peft(base, DATA / "llama/rslora_pattern")
    assert state(base) == before


def test_a_task_over_a_backbone_takes_a_folder():
    import keras_hub

    expected = Expected("gpt2/c_attn")
    task = keras_hub.models.GPT2CausalLM(
        backbone=backbone("gpt2"), preprocessor=None
    )
    keras_lora.load_peft(task, DATA / "gpt2/c_attn")
    got = ops.convert_to_numpy(task(expected.inputs()))[expected.shown]
    assert off(got, expected.adapted) < 1e-4


def test_a_served_base_takes_no_folder():
    base = backbone("llama")
    bank = keras_lora.AdapterBank(base)
    with pytest.raises(ValueError, match="served by an AdapterBank"):
        keras_lora.load_peft(base, DATA / "llama/all_linear")
    bank.detach()


def test_names_lead_to_layers_that_no_converter_knows(tmp_path):
    base = small_base()
    x = normal(3, 6)
    before = numpy_of(base(x))
    folder = write_folder(tmp_path / "folder")
    keras_lora.load_peft(base, folder, names=NAMES)
    values = load_file(folder / "adapter_model.safetensors")
    first, second = base.layers

    def kernel(layer, module):
        key = f"base_model.model.{module}.lora_"
        a, b = values[f"{key}A.weight"], values[f"{key}B.weight"]
        return numpy_of(layer.kernel) + (b @ a).T * 2  # alpha / r

    hidden = np.tanh(x @ kernel(first, "layers.0.up"))
    want = hidden @ kernel(second, "layers.0.down")
    np.testing.assert_allclose(numpy_of(base(x)), want, rtol=1e-4, atol=1e-4)
    assert off(want, before) > 0.1


def test_a_list_of_names_shares_a_fused_module(tmp_path):
    x = keras.Input((6,))
    parts = [layers.Dense(4, name=name, use_bias=False) for name in "qkv"]
    base = keras.Model(x, [part(x) for part in parts])
    folder = write_folder(
        tmp_path / "folder",
        factors("h.0.qkv", 6, 12),
        target_modules=["qkv"],
    )
    keras_lora.load_peft(base, folder, names={"qkv": ["q", "k", "v"]})
    values = load_file(folder / "adapter_model.safetensors")
    a, b = (values[f"base_model.model.h.0.qkv.lora_{n}.weight"] for n in "AB")
    data = normal(3, 6)
    for number, (part, got) in enumerate(zip(parts, base(data), strict=True)):
        update = (b @ a).T[:, 4 * number : 4 * number + 4] * 2
        want = data @ (numpy_of(part.kernel) + update)
        np.testing.assert_allclose(numpy_of(got), want, rtol=1e-4, atol=1e-4)


def test_a_model_without_a_converter_asks_for_names(tmp_path):
    base = small_base()
    before = state(base)
    with pytest.raises(ValueError, match="give `names`"):
        keras_lora.load_peft(base, write_folder(tmp_path / "folder"))
    for wrong in ({"(": "first"}, {"up": 3}, {"up": r"\1"}, "up", {"up": []}):
        with pytest.raises(ValueError, match="`names`"):
            keras_lora.load_peft(base, tmp_path / "folder", names=wrong)
    with pytest.raises(ValueError, match="leads to no layer 'third'"):
        keras_lora.load_peft(base, tmp_path / "folder", names={"up": "third"})
    assert state(base) == before


def test_weights_of_16_bits_are_read(tmp_path):
    import ml_dtypes

    exact = {
        key: value.astype(ml_dtypes.bfloat16).astype("float32")
        for key, value in factors("layers.0.up", 6, 8).items()
    }
    got = []
    for dtype in ("float32", "float16", ml_dtypes.bfloat16):
        tensors = {key: value.astype(dtype) for key, value in exact.items()}
        folder = write_folder(
            tmp_path / str(np.dtype(dtype)), tensors, target_modules=["up"]
        )
        base = small_base()
        keras_lora.load_peft(base, folder, names=NAMES)
        (host,) = hosts_of(base)
        got.append((numpy_of(host.lora_a), numpy_of(host.lora_b)))
    for a, b in got[1:]:
        np.testing.assert_array_equal(a, got[0][0])
        np.testing.assert_allclose(b, got[0][1], atol=1e-3)
    np.testing.assert_array_equal(got[0][1], got[2][1])


LLAMA_UP = "base_model.model.model.layers.0.mlp.up_proj"


def drop_block(config, tensors):
    config["target_modules"] = ["q_proj", "v_proj"]
    for key in list(tensors):
        if ".layers.1." in key or "q_proj" not in key and "v_proj" not in key:
            del tensors[key]


def third_block(config, tensors):
    for key in list(tensors):
        if ".layers.1." in key:
            tensors[key.replace(".1.", ".2.")] = tensors[key]


def kasa(config, tensors):
    tensors[f"{LLAMA_UP}.lora_diag"] = np.ones(4, "float32")


def norm_beyond(config, tensors):
    key = "base_model.model.model.layers.7.input_layernorm.weight"
    tensors[key] = np.ones(32, "float32")


def swapped(config, tensors):
    a, b = (f"{LLAMA_UP}.lora_{n}.weight" for n in "AB")
    tensors[a], tensors[b] = tensors[b].T.copy(), tensors[a].T.copy()


def embedding(config, tensors):
    key = "base_model.model.model.embed_tokens.lora_embedding_"
    tensors[key + "A"] = np.ones((4, 50), "float32")
    tensors[key + "B"] = np.ones((32, 4), "float32")


def lm_head(config, tensors):
    tensors |= factors("lm_head", 32, 50, rank=4)


def nan(config, tensors):
    tensors[f"{LLAMA_UP}.lora_A.weight"][0, 0] = np.nan


def half(config, tensors):
    del tensors[f"{LLAMA_UP}.lora_B.weight"]


def setting(**settings):
    return lambda config, tensors: config.update(settings)


@pytest.mark.parametrize(
    "change, words",
    [
        (drop_block, ["fewer blocks", "layers.1.self_attn.q_proj"]),
        (third_block, ["layers.2.self_attn.q_proj", "no layer of this base"]),
        (swapped, ["layers.0.mlp.up_proj", "(32, 48)", "(48, 32)"]),
        (embedding, ["model.embed_tokens", "embedding"]),
        (lm_head, ["lm_head"]),
        (nan, ["up_proj.lora_A.weight", "not finite"]),
        (kasa, ["up_proj.lora_diag"]),
        (norm_beyond, ["layers.7.input_layernorm.weight"]),
        (half, ["layers.0.mlp.up_proj", "no lora_B"]),
        (setting(bias="all"), ["bias='all'"]),
        (setting(use_dora=True), ["no lora_magnitude_vector"]),
        (setting(r=8), ["rank 4", "`r`"]),
        (setting(rank_pattern={"q_proj": 2}), ["q_proj", "`rank_pattern`"]),
        (setting(lora_alpha="16"), ["`lora_alpha`"]),
        (setting(lora_alpha=0), ["`lora_alpha`"]),
        (setting(init_lora_weights="pissa"), ["init_lora_weights='pissa'"]),
        (setting(init_lora_weights="olora"), ["init_lora_weights='olora'"]),
        (setting(layer_replication=[[0, 1]]), ["layer_replication"]),
        (setting(target_parameters=["x"]), ["target_parameters"]),
        (setting(trainable_token_indices=[1]), ["trainable_token_indices"]),
        (setting(alora_invocation_tokens=[1]), ["alora_invocation_tokens"]),
        (setting(use_qalora=True), ["use_qalora"]),
        (setting(a_setting_to_come={"x": 1}), ["a_setting_to_come"]),
        (
            setting(bias="lora_only", lora_alpha=-1, use_qalora=True, r=0),
            ["bias", "lora_alpha", "use_qalora", "`r`"],
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name(tmp_path, change, words):
    folder = fixture_copy(tmp_path, "llama/all_linear", change)
    base = backbone("llama")
    before = state(base)
    with pytest.raises(ValueError) as error:
        keras_lora.load_peft(base, folder, head=False)
    for word in words:
        assert word in str(error.value)
    assert state(base) == before


@pytest.mark.parametrize(
    "settings",
    [
        {"a_setting_to_come": None},
        {"init_lora_weights": "gaussian", "inference_mode": False},
        {"target_modules": r".*\.(q|k|v|o|gate|up|down)_proj"},
        {"layers_to_transform": [0, 1], "layers_pattern": "layers"},
        {"loftq_config": {"loftq_bits": 4}, "lora_dropout": 0.1},
        {"alpha_pattern": {"q_proj": 12}, "rank_pattern": {"^x.*": 3}},
    ],
)
def test_settings_of_training_do_not_matter(tmp_path, settings):
    expected = Expected("llama/all_linear")
    base = backbone("llama")
    folder = fixture_copy(tmp_path, "llama/all_linear", setting(**settings))
    keras_lora.load_peft(base, folder)
    assert off(expected.of(base), expected.adapted) < 1e-4


def test_another_familys_folder_is_refused():
    base = backbone("bert")
    before = state(base)
    with pytest.raises(ValueError, match="no layer of this base"):
        keras_lora.load_peft(base, DATA / "llama/all_linear")
    assert state(base) == before


LANGUAGE_MODEL = {"auto_mapping": {"base_model_class": "GemmaForCausalLM"}}
NONE = {"task_type": None}


@pytest.mark.parametrize("said", [{}, NONE, {**NONE, **LANGUAGE_MODEL}])
def test_a_table_tied_to_the_output_is_not_trained_for_the_input(
    tmp_path, said
):
    def change(config, tensors):
        config |= {**said, "modules_to_save": ["embed_tokens"]}
        key = "base_model.model.model.embed_tokens.weight"
        tensors[key] = np.ones(table, "float32")

    base = backbone("gemma")
    table = tuple(base.token_embedding.embeddings.shape)
    folder = fixture_copy(tmp_path, "gemma/all", change)
    before = state(base)
    with pytest.raises(ValueError, match="tied to the output"):
        keras_lora.load_peft(base, folder)
    assert state(base) == before
    config = json.loads((folder / "adapter_config.json").read_text())
    if said:
        name = "GemmaForSequenceClassification"
        config["auto_mapping"] = {"base_model_class": name}
    else:
        config["ensure_weight_tying"] = True
    (folder / "adapter_config.json").write_text(json.dumps(config))
    keras_lora.load_peft(base, folder)
    assert (numpy_of(base.token_embedding.embeddings) == 1).all()


def test_a_classifiers_table_is_trained_whole(tmp_path):
    """XLM-RoBERTa has the letters LM in its name and is none."""

    def change(config, tensors):
        name = "XLMRobertaForSequenceClassification"
        config["auto_mapping"] = {"base_model_class": name}
        config["modules_to_save"] = ["word_embeddings"]
        key = "base_model.model.roberta.embeddings.word_embeddings.weight"
        tensors[key] = np.ones(table, "float32")

    base = backbone("bert")
    table = tuple(base.token_embedding.embeddings.shape)
    keras_lora.load_peft(base, fixture_copy(tmp_path, "bert/qv", change))
    assert (numpy_of(base.token_embedding.embeddings) == 1).all()
