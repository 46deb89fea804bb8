"""The commands `keras-lora inspect` and `keras-lora merge`."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers
from safetensors.numpy import save_file

import keras_lora
from keras_lora.cli import main
from tests.helpers import fill, normal, numpy_of


def make():
    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [keras.Input((6,)), layers.Dense(8, "tanh"), layers.Dense(4)]
    )


@pytest.fixture
def files(tmp_path):
    """A base, an adapter with a head for it, and the outer model."""
    make().save(tmp_path / "base.keras")
    model = keras.Sequential(
        [
            keras_lora.inject(make(), keras_lora.LoRAConfig(2)),
            layers.Dense(3, activation="softmax", name="top"),
        ]
    )
    fill(model)
    keras_lora.save_adapter(model, tmp_path / "task.safetensors")
    return tmp_path, model


def arguments(folder, *, base="base.keras", file="task.safetensors"):
    output = folder / "merged.keras"
    return ["merge", str(folder / base), str(folder / file), "-o", str(output)]


def assert_merged(path, model):
    x = normal(3, 6)
    merged = keras.saving.load_model(path)
    np.testing.assert_allclose(
        numpy_of(merged(x)), numpy_of(model(x)), rtol=1e-4, atol=1e-5
    )
    assert not [v for v in merged.weights if "lora" in v.name]


def test_inspect_prints_what_a_file_holds(files, capsys):
    folder, _ = files
    assert main(["inspect", str(folder / "task.safetensors")]) == 0
    out, err = capsys.readouterr()
    for word in ("task.safetensors", "rank 2", "head: Dense", "dense_1: lora"):
        assert word in out
    assert err == ""


def test_merge_puts_the_head_on_a_bare_base(files, capsys):
    folder, model = files
    before = sorted(os.listdir(folder))
    assert main(arguments(folder)) == 0
    assert "merged.keras" in capsys.readouterr().out
    assert_merged(folder / "merged.keras", model)
    assert sorted(os.listdir(folder)) == sorted([*before, "merged.keras"])


def test_merge_fills_an_outer_model(files):
    folder, model = files
    outer = keras.Sequential([make(), layers.Dense(3, "softmax")])
    outer.save(folder / "outer.keras")
    assert main(arguments(folder, base="outer.keras")) == 0
    assert_merged(folder / "merged.keras", model)


def test_merge_of_an_adapter_without_head(tmp_path):
    make().save(tmp_path / "base.keras")
    model = fill(keras_lora.inject(make(), keras_lora.LoRAConfig(2)))
    keras_lora.save_adapter(model, tmp_path / "task.safetensors")
    assert main(arguments(tmp_path)) == 0
    assert_merged(tmp_path / "merged.keras", model)


LOADER = """
import sys
import keras
import numpy as np

model = keras.saving.load_model(sys.argv[1])
x = np.random.default_rng(0).normal(size=(3, 6)).astype("float32")
np.save(sys.argv[2], keras.ops.convert_to_numpy(model(x)))
assert "keras_lora" not in sys.modules
"""


@pytest.mark.slow
def test_the_command_writes_a_model_that_needs_no_keras_lora(files):
    folder, model = files
    run = [sys.executable, "-m", "keras_lora.cli", *arguments(folder)]
    done = subprocess.run(run, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = folder / "y.npy"
    code = [sys.executable, "-c", LOADER, folder / "merged.keras", result]
    done = subprocess.run(code, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(
        np.load(result), numpy_of(model(normal(3, 6))), rtol=1e-4, atol=1e-5
    )


def refused(command, capsys, folder, *words):
    before = sorted(os.listdir(folder))
    assert main(command) == 1
    out, err = capsys.readouterr()
    assert err.startswith("keras-lora: ")
    assert "Traceback" not in err
    for word in words:
        assert word in err, err
    assert out == ""
    assert sorted(os.listdir(folder)) == before


def test_inspect_refuses_other_files(tmp_path, capsys):
    refused(["inspect", str(tmp_path / "no")], capsys, tmp_path, "No such file")
    text = tmp_path / "text"
    text.write_text("text")
    refused(["inspect", str(text)], capsys, tmp_path, "no safetensors file")
    save_file({"a": np.zeros(1)}, text)
    refused(["inspect", str(text)], capsys, tmp_path, "no keras_lora adapter")


def test_merge_refuses_bad_inputs(files, capsys):
    folder, _ = files

    def merging(*words, **options):
        refused(arguments(folder, **options), capsys, folder, *words)

    merging("absent", file="absent")
    merging("absent.keras", base="absent.keras")
    (folder / "text.keras").write_text("text")
    merging("text.keras", base="text.keras")
    (folder / "empty.keras").mkdir()
    merging("empty.keras", base="empty.keras")
    other = keras.Sequential([keras.Input((6,)), layers.Dense(2)])
    other.save(folder / "other.keras")
    merging("another base", base="other.keras")
    command = arguments(folder)
    command[-1] = str(folder / "merged.h5")
    refused(command, capsys, folder, "must end in .keras")
    command[-1] = str(folder / "absent" / "merged.keras")
    refused(command, capsys, folder, "absent")


def test_a_merge_that_cannot_be_saved_leaves_nothing(
    files, capsys, monkeypatch
):
    folder, _ = files

    def full(model, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keras.Model, "save", full)
    refused(arguments(folder), capsys, folder, "No space left on device")


def test_merge_refuses_a_bottleneck(tmp_path, capsys):
    make().save(tmp_path / "base.keras")
    config = keras_lora.AdapterConfig(2, targets=["dense"])
    model = fill(keras_lora.inject(make(), config))
    keras_lora.save_adapter(model, tmp_path / "task.safetensors")
    command = arguments(tmp_path)
    refused(command, capsys, tmp_path, "a bottleneck cannot be folded")


def test_merge_refuses_classes_that_it_cannot_import(tmp_path, capsys):
    class Own(layers.Dense):
        pass

    model = keras.Sequential([keras.Input((6,)), Own(2)])
    model.save(tmp_path / "base.keras")
    keras_lora.inject(model, keras_lora.LoRAConfig(2))
    keras_lora.save_adapter(fill(model), tmp_path / "task.safetensors")
    refused(arguments(tmp_path), capsys, tmp_path, "base.keras", "Own")


@pytest.mark.parametrize("words", [[], ["merge"], ["melt", "x"]])
def test_a_command_line_that_is_none_shows_the_usage(words, capsys):
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    assert "usage: keras-lora" in capsys.readouterr().err
