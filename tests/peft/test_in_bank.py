"""PEFT folders and files of ours side by side on one base."""

import numpy as np
import pytest
from keras import ops
from safetensors.numpy import load_file

import keras_lora
from tests.helpers import fill, numpy_of
from tests.peft.fixtures import (
    DATA,
    Expected,
    as_dora,
    backbone,
    fixture_copy,
    small_base,
    write_folder,
)


def of_ours(base, path, config):
    """Saves an adapter of ours for a base, which is plain again then."""
    fill(keras_lora.inject(base, config))
    keras_lora.save_adapter(base, path)
    keras_lora.eject(base)
    return path


def alone(path, x):
    """What a model of its own answers with one adapter."""
    base = backbone("llama")
    is_file = path.is_file()
    load = keras_lora.load_adapter if is_file else keras_lora.load_peft
    load(base, path)
    return ops.convert_to_numpy(base(x))


@pytest.mark.slow
def test_rows_of_all_kinds_are_as_each_alone(tmp_path):
    base = backbone("llama")
    width = keras_lora.AdapterConfig(bottleneck=4)
    paths = {
        "bottleneck": of_ours(base, tmp_path / "b.safetensors", width),
        "dora": of_ours(
            base, tmp_path / "d.safetensors", keras_lora.DoRAConfig(rank=3)
        ),
        "peft": DATA / "llama/all_linear",
        "peft_rs": DATA / "llama/rslora_pattern",
        "peft_dora": fixture_copy(tmp_path, "llama/all_linear", as_dora()),
    }
    generator = np.random.default_rng(0)
    names = [*paths, None, *reversed(paths)]
    x = {
        "token_ids": generator.integers(1, 50, (len(names), 7)),
        "padding_mask": np.ones((len(names), 7), "int32"),
    }
    want = {name: alone(path, x) for name, path in paths.items()}
    want[None] = ops.convert_to_numpy(base(x))
    bank = keras_lora.AdapterBank(base)
    for name, path in paths.items():
        bank.load(name, path)
    got = bank.predict(x, adapter=names)
    for number, name in enumerate(names):
        row = want[name][number]
        np.testing.assert_allclose(got[number], row, rtol=1e-4, atol=1e-4)
        for other in set(want) - {name}:
            assert np.abs(row - want[other][number]).max() > 1e-2
    bank.save(tmp_path / "saved")
    bank.detach()
    again = keras_lora.AdapterBank.restore(base, tmp_path / "saved")
    for number, row in enumerate(again.predict(x, adapter=names)):
        np.testing.assert_array_equal(row, got[number])
    again.detach()


def test_a_classifier_in_a_folder_is_a_head():
    base = backbone("bert")
    folder = DATA / "bert/seq_cls_head"
    x = Expected("bert/seq_cls_head").inputs()
    theirs = load_file(folder / "adapter_model.safetensors")
    bank = keras_lora.AdapterBank(base)
    bank.load("task", folder)
    got = bank.predict(x, adapter="task")
    bank.detach()
    keras_lora.load_peft(base, folder, head=False)
    pooled = numpy_of(base(x)["pooled_output"])
    prefix = "base_model.model.classifier"
    want = pooled @ theirs[f"{prefix}.weight"].T + theirs[f"{prefix}.bias"]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_what_no_bank_serves_is_named(tmp_path):
    def no_task(config, tensors):
        config["task_type"] = None

    base = backbone("bert")
    bank = keras_lora.AdapterBank(base)
    folder = fixture_copy(tmp_path, "bert/seq_cls_head", no_task)
    with pytest.raises(ValueError, match="classifier: trained outside"):
        bank.load("task", folder)
    bank.detach()
    bank = keras_lora.AdapterBank(backbone("llama"))
    with pytest.raises(ValueError, match="self_attention_layernorm/scale"):
        bank.load("norms", DATA / "llama/norm_saved")
    with pytest.raises(ValueError, match="lora_bias"):
        bank.load("bias", DATA / "llama/refuse_lora_bias")
    assert bank.names == []
    bank.detach()
    bank = keras_lora.AdapterBank(small_base())
    with pytest.raises(ValueError, match="no KerasHub backbone"):
        bank.load("x", write_folder(tmp_path / "folder"))
    bank.detach()
