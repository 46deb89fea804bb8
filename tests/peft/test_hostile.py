"""What no PEFT folder may do, whoever wrote it."""

import json
import os

import numpy as np
import pytest
from safetensors.numpy import save_file

import keras_lora
from tests.helpers import hosts_of, numpy_of, refused, state
from tests.peft.fixtures import NAMES, SIZES, factors, small_base, write_folder

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"


def huge_config(folder):
    with open(folder / CONFIG, "r+b") as file:
        file.truncate(1 << 30)


def deep_config(folder):
    (folder / CONFIG).write_text('{"peft_type": ' + "[" * 100_000)


def nested_config(folder):
    config = json.loads((folder / CONFIG).read_text())
    for _ in range(50):
        config = {"peft_type": "LORA", "x": config}
    (folder / CONFIG).write_text(json.dumps(config))


def list_config(folder):
    (folder / CONFIG).write_text("[1]")


def bytes_config(folder):
    (folder / CONFIG).write_bytes(b"\xff\xfe{}")


def pipe_config(folder):
    (folder / CONFIG).unlink()
    os.mkfifo(folder / CONFIG)


def no_config(folder):
    (folder / CONFIG).unlink()


def pipe_tensors(folder):
    (folder / TENSORS).unlink()
    os.mkfifo(folder / TENSORS)


def folder_tensors(folder):
    (folder / TENSORS).unlink()
    (folder / TENSORS).mkdir()


def cut_tensors(folder):
    data = (folder / TENSORS).read_bytes()
    (folder / TENSORS).write_bytes(data[:-8])


def huge_header(folder):
    (folder / TENSORS).write_bytes((1 << 40).to_bytes(8, "little") + b"{}")


def pickled(folder):
    (folder / TENSORS).unlink()
    (folder / "adapter_model.bin").write_bytes(b"cos\nsystem\n")


def in_shards(folder):
    (folder / TENSORS).rename(folder / "adapter_model-00001.safetensors")


def changed(**settings):
    def change(folder):
        config = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps({**config, **settings}))

    return change


def with_tensors(make):
    def change(folder):
        tensors = {}
        for module, sizes in SIZES.items():
            tensors |= factors(module, *sizes)
        save_file(make(tensors), folder / TENSORS)

    return change


UP = "base_model.model.layers.0.up"


def infinite(tensors):
    tensors[f"{UP}.lora_B.weight"][0, 0] = np.inf
    return tensors


def beyond_float32(tensors):
    key = f"{UP}.lora_B.weight"
    return {**tensors, key: tensors[key].astype("float64") * 1e300}


def whole_numbers(tensors):
    return {key: value.astype("int32") for key, value in tensors.items()}


def vectors(tensors):
    return {key: value.ravel() for key, value in tensors.items()}


def empty(tensors):
    return {k: v[:0] if "lora_A" in k else v[:, :0] for k, v in tensors.items()}


def giant_rank(tensors):
    return {**tensors, **factors("layers.0.up", 6, 8, rank=5000)}


def control_codes(tensors):
    return {**tensors, **factors("layers.0.\x1b[2Jup\n", 6, 8)}


def long_name(tensors):
    return {**tensors, **factors("x." * 5000 + "layers.0.up", 6, 8)}


def twice(tensors):
    return {**tensors, **factors("other.layers.0.up", 6, 8)}


def two_adapters(tensors):
    a = tensors[f"{UP}.lora_A.weight"]
    return {**tensors, f"{UP}.lora_A.default.weight": a + 1}


def nothing(tensors):
    return {}


@pytest.mark.parametrize(
    "spoil, word",
    [
        (huge_config, "over 16,777,216 bytes"),
        (deep_config, CONFIG),
        (nested_config, "too deep"),
        (list_config, "no JSON object"),
        (bytes_config, CONFIG),
        (pipe_config, "no file"),
        (no_config, "No such file"),
        (pipe_tensors, "no file"),
        (folder_tensors, "no file"),
        (cut_tensors, "truncated"),
        (huge_header, "header"),
        (pickled, "pickle"),
        (in_shards, "adapter_model-00001.safetensors"),
        (changed(lora_alpha=float("nan")), "lora_alpha"),
        (changed(lora_alpha=float("inf")), "lora_alpha"),
        (changed(lora_alpha=1e300), "alpha is out of range"),
        (changed(lora_alpha=[16]), "lora_alpha"),
        (changed(r=10**400), "`r`"),
        (changed(r=10**400, use_rslora=True), "`r`"),
        (
            changed(rank_pattern={"up": 10**400}, use_rslora=True),
            "rank_pattern['up']",
        ),
        (changed(r=True), "`r`"),
        (changed(lora_dropout="x"), "lora_dropout"),
        (changed(use_rslora="yes"), "use_rslora"),
        (changed(init_lora_weights=[1]), "init_lora_weights"),
        (changed(rank_pattern=[1]), "rank_pattern"),
        (changed(alpha_pattern={"up": "x"}), "alpha_pattern"),
        (changed(alpha_pattern={"(a+)+$": 3}), "take for ever"),
        (changed(alpha_pattern={"a?" * 30 + "a" * 30: 3}), "take for ever"),
        (changed(alpha_pattern={"(": 3}), "no pattern"),
        (
            changed(alpha_pattern={f"x{n}.*": 3 for n in range(99)}),
            "99 regular expressions",
        ),
        (changed(peft_type=["LORA"]), "peft_type"),
        (with_tensors(infinite), "not finite"),
        (with_tensors(beyond_float32), "not finite"),
        (with_tensors(whole_numbers), "dtype I32"),
        (with_tensors(vectors), "do not go together"),
        (with_tensors(empty), "do not go together"),
        (with_tensors(giant_rank), "rank 5000"),
        (with_tensors(control_codes), r"\x1b"),
        (with_tensors(long_name), "a name of"),
        (with_tensors(twice), "are both first"),
        (with_tensors(two_adapters), "there are two"),
        (with_tensors(nothing), "holds no lora_A"),
    ],
)
def test_a_spoiled_folder_is_refused(tmp_path, spoil, word):
    folder = write_folder(tmp_path / "folder")
    spoil(folder)
    base = small_base()
    before = state(base)
    with pytest.raises(ValueError) as error:
        keras_lora.load_peft(base, folder, names=NAMES)
    assert word in str(error.value)
    assert "\x1b" not in str(error.value) and len(str(error.value)) < 10**5
    assert state(base) == before
    try:
        text = str(keras_lora.inspect_adapter(folder))
    except ValueError as error:
        text = str(error)
    assert "\x1b" not in text


def test_ranks_without_end_are_told_with_all_else(tmp_path):
    folder = write_folder(tmp_path / "folder")
    huge = 10**400
    changed(r=huge, rank_pattern={"up": huge}, use_rslora=True, bias="all")(
        folder
    )
    base = small_base()
    before = state(base)
    words = ("`r`", "`rank_pattern['up']`", "bias='all'")
    refused(lambda: keras_lora.load_peft(base, folder, names=NAMES), *words)
    assert state(base) == before
    info = keras_lora.inspect_adapter(folder)
    assert info.layers == {} and len(info.problems) == 3


def test_a_folder_of_links_is_a_folder(tmp_path):
    """The hub's cache keeps its files elsewhere."""
    folder = write_folder(tmp_path / "folder")
    links = tmp_path / "links"
    links.mkdir()
    for name in (CONFIG, TENSORS):
        (links / name).symlink_to(folder / name)
    base = small_base()
    keras_lora.load_peft(base, links, names=NAMES)
    assert np.abs(numpy_of(hosts_of(base)[0].lora_b)).max() > 0


def test_a_folder_that_changes_while_it_is_read_is_refused(
    tmp_path, monkeypatch
):
    from keras_lora.peft import translate

    folder = write_folder(tmp_path / "folder")
    read = translate.read_peft_tensors

    def changes(info, keys):
        with_tensors(giant_rank)(folder)
        return read(info, keys)

    monkeypatch.setattr(translate, "read_peft_tensors", changes)
    base = small_base()
    before = state(base)
    with pytest.raises(ValueError, match="has changed"):
        keras_lora.load_peft(base, folder, names=NAMES)
    assert state(base) == before


def test_a_folder_is_no_adapter_file(tmp_path):
    folder = write_folder(tmp_path / "folder")
    with pytest.raises(ValueError, match="load_peft"):
        keras_lora.load_adapter(small_base(), folder)
