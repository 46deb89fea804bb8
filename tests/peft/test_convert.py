"""`keras-lora import` and `export`: PEFT folders and adapter files."""

import json

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file

import keras_lora
from keras_lora.cli import main
from tests.peft.fixtures import DATA, Expected, as_dora, backbone, fixture_copy


def said(capsys, *arguments, code=0):
    assert main([str(argument) for argument in arguments]) == code
    out, err = capsys.readouterr()
    return err if code else out


def test_a_folder_becomes_a_file_and_a_folder_again(tmp_path, capsys):
    base, folder = DATA / "gpt2/checkpoint", DATA / "gpt2/c_attn"
    file = tmp_path / "task.safetensors"
    text = said(capsys, "import", base, folder, "-o", file)
    assert "transformer_layer_1/self_attention/value: lora" in text
    expected = Expected("gpt2/c_attn")
    model = backbone("gpt2")
    keras_lora.load_adapter(model, file)
    got = expected.of(model)
    np.testing.assert_allclose(got, expected.adapted, atol=1e-4)

    out = tmp_path / "out"
    names = ["--prefix", "transformer", "--task-type", "CAUSAL_LM"]
    text = said(capsys, "export", base, file, "-o", out, *names)
    assert "adapter_model.safetensors" in text
    theirs = load_file(folder / "adapter_model.safetensors")
    ours = load_file(out / "adapter_model.safetensors")
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        np.testing.assert_array_equal(ours[key], value)
    assert "h.0.attn.c_attn: lora, rank 4" in said(capsys, "inspect", out)

    options = {"prefix": "transformer", "task_type": "CAUSAL_LM"}
    keras_lora.save_peft(file, tmp_path / "alone", **options)
    for path in out.iterdir():
        same = tmp_path / "alone" / path.name
        assert same.read_bytes() == path.read_bytes()


def test_a_keras_file_is_a_base(tmp_path, capsys):
    backbone("llama").save(tmp_path / "base.keras")
    file = tmp_path / "task.safetensors"
    folder = DATA / "llama/norm_saved"
    said(capsys, "import", tmp_path / "base.keras", folder, "-o", file)
    expected = Expected("llama/norm_saved")
    model = backbone("llama")
    keras_lora.load_adapter(model, file)
    got = expected.of(model)
    np.testing.assert_allclose(got, expected.adapted, atol=1e-4)
    out = tmp_path / "out"
    said(capsys, "export", tmp_path / "base.keras", file, "-o", out)
    again = load_file(out / "adapter_model.safetensors")
    theirs = load_file(folder / "adapter_model.safetensors")
    assert again.keys() == theirs.keys()


def test_a_classifier_becomes_a_head_or_is_left_out(tmp_path, capsys):
    base, folder = DATA / "bert/checkpoint", DATA / "bert/seq_cls_head"
    file = tmp_path / "task.safetensors"
    assert "head: Dense" in said(capsys, "import", base, folder, "-o", file)
    built = keras_lora.inspect_adapter(file).build_head()
    theirs = load_file(folder / "adapter_model.safetensors")
    key = "base_model.model.classifier.weight"
    got = keras.ops.convert_to_numpy(built.layers[0].kernel)
    np.testing.assert_array_equal(got, theirs[key].T)
    bare = tmp_path / "bare.safetensors"
    text = said(capsys, "import", base, folder, "-o", bare, "--no-head")
    assert "head" not in text
    out = tmp_path / "out"
    refused = said(capsys, "export", base, file, "-o", out, code=1)
    assert "nowhere to go" in refused and not out.exists()
    said(capsys, "export", base, file, "-o", out, "--no-head")
    assert out.exists()


def test_a_file_that_does_not_say_enough_says_what_is_needed(tmp_path):
    base = backbone("llama")
    keras_lora.load_peft(base, DATA / "llama/norm_saved")
    keras_lora.save_adapter(base, tmp_path / "norms.safetensors")
    keras_lora.eject(base)
    dora = fixture_copy(tmp_path, "llama/all_linear", as_dora())
    keras_lora.load_peft(base, dora)
    keras_lora.save_adapter(base, tmp_path / "dora.safetensors")
    for name in ("norms", "dora"):
        with pytest.raises(ValueError, match="load .* into its base") as error:
            keras_lora.save_peft(
                tmp_path / f"{name}.safetensors", tmp_path / "out"
            )
        assert "keras-lora import" in str(error.value)
        assert not (tmp_path / "out").exists()


def test_what_is_refused_is_one_message_and_leaves_nothing(tmp_path, capsys):
    base, file = DATA / "llama/checkpoint", tmp_path / "x"
    for arguments, word in (
        (("import", base, DATA / "llama/refuse_ia3"), "IA3"),
        (("import", base, DATA / "gpt2/c_attn"), "no layer of this base"),
        (("import", tmp_path, DATA / "gpt2/c_attn"), "was not read"),
        (("import", base, tmp_path), "adapter_config.json"),
        (("export", base, tmp_path / "none"), "No such file"),
    ):
        text = said(capsys, *arguments, "-o", file, code=1)
        assert text.startswith("keras-lora: ") and word in text
        assert "Traceback" not in text
        assert list(tmp_path.iterdir()) == []


def test_a_folder_says_what_it_holds():
    info = keras_lora.inspect_adapter(DATA / "llama/rslora_pattern")
    assert info.methods == ("lora",) and info.problems == []
    module = "model.layers.1.self_attn.q_proj"
    assert info.layers[module] == {
        "method": "lora",
        "rank": 8,
        "alpha": 12 * 8**0.5,
        "dropout": 0.0,
    }
    assert info.layers["model.layers.0.mlp.down_proj"]["alpha"] == 5 * 2
    info = keras_lora.inspect_adapter(DATA / "llama/norm_saved")
    assert info.trained == (
        "model.layers.0.input_layernorm",
        "model.layers.1.input_layernorm",
    )
    config = (DATA / "llama/norm_saved/adapter_config.json").read_text()
    assert info.config == json.loads(config)
    refused = keras_lora.inspect_adapter(DATA / "llama/refuse_ia3")
    assert "not loaded here" in str(refused) and "IA3" in str(refused)
