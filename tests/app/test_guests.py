"""Visitors' adapters: checked, apart from others', and gone afterwards."""

from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

import keras_lora
from app.serve.guests import MOST, Shelf, default_labels, shown_name
from app.serve.limits import MAX_FILE_BYTES, MAX_RANK
from app.serve.room import Room
from benchmarks.costly import costly_file
from keras_lora.serve.answers import Prediction, gives_shares
from tests.app.tiny import adapter, tiny_base

TEXT = "a text to tell apart"


@pytest.fixture
def shelf(tiny_service):
    shelf = Shelf(tiny_service)
    yield shelf
    shelf.close()


def data_of(tmp_path, **changes):
    return adapter(tmp_path / "one.safetensors", **changes).read_bytes()


def test_an_upload_answers_under_its_labels(shelf, tiny_service, tmp_path):
    data = data_of(tmp_path, classes=3, seed=5)
    served = shelf.add(data, "C:\\mine\\own file.safetensors", "xyz")
    assert served.title == "own file"
    assert served.labels == ("x", "y", "z")
    answer = tiny_service.answer(served, TEXT)
    assert answer.probabilities.shape == (3,)
    assert answer.probabilities.sum() == pytest.approx(1)


def test_a_bottleneck_may_be_brought_and_traces_nothing_anew(
    shelf, tiny_service, tmp_path
):
    model = tiny_service.bank.model
    tiny_service.answer(tiny_service.shipped.tasks[0], TEXT)
    before = model.predict_function
    for config in (
        keras_lora.AdapterConfig(bottleneck=12),
        keras_lora.LoRAConfig(rank=MAX_RANK),
    ):
        served = shelf.add(data_of(tmp_path, config=config), "b.safetensors")
        tiny_service.answer(served, TEXT)
    assert model.predict_function is before


@pytest.mark.parametrize(
    "head",
    [
        lambda: {"activation": "softmax"},
        lambda: {"activation": "sigmoid"},
        lambda: {"behind": [layers.Activation("sigmoid")]},
        lambda: {
            "activation": "softmax",
            "behind": [layers.Reshape((1, 2)), layers.Flatten()],
        },
    ],
    ids=["softmax", "sigmoid", "behind", "shaped"],
)
def test_what_a_head_s_own_softmax_or_sigmoid_gave_stays(
    shelf, tiny_service, tmp_path, head
):
    served = shelf.add(data_of(tmp_path, **head()), "soft.safetensors")
    inputs, _ = tiny_service.inputs([TEXT])
    outputs = tiny_service.bank.predict(inputs, adapter=served.name)[0]
    assert np.ptp(outputs) > 0.1
    (together,), _ = tiny_service.answer_all([served], TEXT)
    mixed = tiny_service.answer_mixed([(TEXT, served)])
    found = tiny_service.answer(served, TEXT).probabilities
    for shares in (found, together, *mixed.together):
        np.testing.assert_allclose(shares, outputs, atol=1e-5)
    # The same file over HTTP.
    info = replace(served.info, labels=served.labels)
    known = gives_shares(info, tiny_service.base)
    there = Prediction(outputs, info, known).probabilities
    np.testing.assert_allclose(found, there, atol=1e-5)


def test_equal_names_of_two_visitors_do_not_meet(tiny_service, tmp_path):
    mine, theirs = Shelf(tiny_service), Shelf(tiny_service)
    one = mine.add(data_of(tmp_path, seed=1), "same.safetensors")
    before = tiny_service.answer(one, TEXT).probabilities
    two = theirs.add(data_of(tmp_path, seed=2), "same.safetensors")
    assert one.name != two.name
    mine.remove(two.name)  # not mine: nothing happens
    np.testing.assert_allclose(
        tiny_service.answer(one, TEXT).probabilities, before, atol=1e-6
    )
    assert not np.allclose(tiny_service.answer(two, TEXT).probabilities, before)
    mine.close()
    theirs.close()


def test_a_visitor_who_leaves_leaves_nothing(tiny_service, tmp_path):
    names = tiny_service.bank.names
    files = set(tiny_service.folder.iterdir())
    shelf = Shelf(tiny_service)
    shelf.add(data_of(tmp_path), "a.safetensors")
    shelf.add(data_of(tmp_path), "b.safetensors")
    assert len(tiny_service.bank.names) == len(names) + 2
    shelf.close()
    assert tiny_service.bank.names == names
    assert set(tiny_service.folder.iterdir()) == files


def full_disk(path, data):
    """A write that ends in the middle, as on a full disk."""
    with path.open("wb") as file:
        file.write(data[: len(data) // 2])
    raise OSError(28, "No space left on device", str(path))


def out_of_memory(*args):
    raise MemoryError


@pytest.mark.parametrize(
    ("where", "fails", "raised"),
    [
        ((Path, "write_bytes"), full_disk, ValueError),
        ((keras_lora.AdapterBank, "load"), out_of_memory, MemoryError),
    ],
)
def test_what_fails_half_way_leaves_no_file_and_takes_no_room(
    shelf, tiny_service, tmp_path, monkeypatch, where, fails, raised
):
    data = data_of(tmp_path)
    files = set(tiny_service.folder.iterdir())
    names = tiny_service.bank.names
    monkeypatch.setattr(tiny_service, "room", Room(most=1))
    with monkeypatch.context() as patch:
        patch.setattr(*where, fails)
        with pytest.raises(raised) as error:
            shelf.add(data, "a.safetensors")
    assert str(tiny_service.folder) not in str(error.value)
    assert set(tiny_service.folder.iterdir()) == files
    assert tiny_service.bank.names == names and not shelf.adapters
    shelf.add(data, "a.safetensors")


@pytest.mark.parametrize("room", ["most", "bytes"])
def test_all_visitors_together_have_so_much_room(
    tiny_service, tmp_path, monkeypatch, room
):
    data = data_of(tmp_path)
    full = {"most": {"most": 2}, "bytes": {"most_bytes": 2 * len(data) + 9}}
    monkeypatch.setattr(tiny_service, "room", Room(**full[room]))
    first, second, third = (Shelf(tiny_service) for _ in range(3))
    first.add(data, "a.safetensors")
    second.add(data, "b.safetensors")
    names = tiny_service.bank.names
    with pytest.raises(ValueError, match="no room now: 2 adapters of visitors"):
        third.add(data, "c.safetensors")
    assert tiny_service.bank.names == names
    # Who leaves makes room.
    first.close()
    third.add(data, "c.safetensors")
    for shelf in (second, third):
        shelf.close()


def test_nothing_is_kept_for_a_visitor_who_left(tiny_service, tmp_path):
    """Streamlit may close the shelf while an upload is on its way."""
    names = tiny_service.bank.names
    shelf = Shelf(tiny_service)
    shelf.close()
    with pytest.raises(ValueError, match="its visitor has left"):
        shelf.add(data_of(tmp_path), "a.safetensors")
    assert tiny_service.bank.names == names


def headless(path):
    base = tiny_base()
    keras_lora.inject(base, keras_lora.LoRAConfig(rank=2))
    keras_lora.save_adapter(base, path)


def of_another_base(path):
    base = tiny_base()
    for variable in base.weights:
        variable.assign(variable + 0.1)
    adapter(path, base=base)


def with_trained_norms(path):
    base = tiny_base()
    config = keras_lora.LoRAConfig(rank=2)
    keras_lora.inject(base, config, train=["embeddings_layer_norm"])
    model = keras.Model(base.input, keras.layers.Dense(2)(base(base.input)))
    keras_lora.save_adapter(model, path)


def with_config(**changes):
    return lambda path: adapter(path, **changes)


def cut_short(path):
    adapter(path)
    path.write_bytes(path.read_bytes()[:900])


lora, bottleneck = keras_lora.LoRAConfig, keras_lora.AdapterConfig


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (lambda path: path.write_bytes(b""), "truncated"),
        (lambda path: path.write_bytes(b"\x80\x04 pickle"), "no safetensors"),
        (cut_short, "truncated"),
        (headless, "no head"),
        (of_another_base, "base"),
        (with_trained_norms, "trained layers of the base"),
        (with_config(config=lora(rank=64)), "rank is 64; at most 16"),
        (with_config(config=bottleneck(bottleneck=99)), "bottleneck is 99"),
        (
            with_config(config=bottleneck(bottleneck=4, activation="gelu")),
            "another activation",
        ),
        (
            with_config(config=bottleneck(bottleneck=4, placement="parallel")),
            "its method, parallel, is not served",
        ),
        (
            with_config(config=lora(rank=2, targets=["token_embedding"])),
            "no adapter here may sit on: token_embedding",
        ),
        (with_config(classes=1), "1 classes"),
        (
            lambda path: adapter(path, behind=[layers.LayerNormalization()]),
            "cannot be told whether its head gives probabilities",
        ),
        (with_config(classes=40), "40 classes"),
        (
            lambda path: path.write_bytes(b"x" * (MAX_FILE_BYTES + 1)),
            "too large",
        ),
    ],
)
def test_a_bad_file_is_told_what_is_wrong_and_leaves_nothing(
    shelf, tiny_service, tmp_path, write, expected
):
    names = tiny_service.bank.names
    files = set(tiny_service.folder.iterdir())
    path = tmp_path / "bad.safetensors"
    write(path)
    with pytest.raises(ValueError) as error:
        shelf.add(path.read_bytes(), "bad.safetensors")
    text = str(error.value)
    assert expected in text and text.startswith("bad was not")
    # Neither the server's folders nor others' names are told.
    assert str(tiny_service.folder) not in text and "guest-" not in text
    assert tiny_service.bank.names == names
    assert set(tiny_service.folder.iterdir()) == files
    assert not shelf.adapters


def test_a_costly_head_is_refused_before_it_runs(shelf, tmp_path):
    """Outer products: 30 kB that took gigabytes of the server's memory."""
    data = data_of(tmp_path)
    products = [
        {
            "class": "EinsumDense",
            "config": {"equation": equation, "output_shape": shape},
            "input_shape": [None, *shape[:-1]],
        }
        for equation, shape in (
            ("ab,c->abc", [32, 1000]),
            ("abc,d->abcd", [32, 1000, 1000]),
        )
    ]
    weights = {f"@head/{number}/kernel": (1000,) for number in (0, 1)}
    last = {
        "class": "Dense",
        "config": {"units": 2, "use_bias": False},
        "input_shape": [None, 32, 1000, 1000],
    }
    weights["@head/2/kernel"] = (1000, 2)
    data = costly_file(data, [*products, last], weights)
    message = r"layer 1 \(EinsumDense\).*32,000,000 numbers"
    with pytest.raises(ValueError, match=message):
        shelf.add(data, "bad.safetensors", ["one", "two"])
    assert not shelf.adapters


def test_equal_titles_get_a_number(shelf, tmp_path):
    data = data_of(tmp_path)
    names = ("same.safetensors", "same.safetensors", "Movie sentiment")
    titles = [shelf.add(data, name).title for name in names]
    assert titles == ["same", "same 2", "Movie sentiment 2"]


def test_labels_of_another_number_are_refused(shelf, tmp_path):
    with pytest.raises(ValueError, match="3 labels were given for 2 classes"):
        shelf.add(data_of(tmp_path), "a.safetensors", ("x", "y", "z"))


def test_a_shelf_is_full_at_some_point(shelf, tmp_path):
    data = data_of(tmp_path)
    for number in range(MOST):
        shelf.add(data, f"{number}.safetensors")
    with pytest.raises(ValueError, match="remove one first"):
        shelf.add(data, "more.safetensors")
    shelf.remove(shelf.adapters[0].name)
    shelf.add(data, "more.safetensors")


def test_a_file_s_name_is_shown_without_folder_and_ending():
    assert shown_name("../../etc/pa`ss<b>.safetensors") == "pa`ss<b>"
    assert shown_name("my words (2).safetensors") == "my words (2)"
    assert shown_name("C:\\mine\\words.csv") == "words"
    assert shown_name("a\u202e.safetensors") == r"a\u202e"
    assert shown_name(".safetensors") == "adapter"
    assert len(shown_name("x" * 999)) == 40


def test_labels_come_from_the_task_in_the_name():
    assert default_labels("tweet-sentiment (1)", 2) == ("negative", "positive")
    assert default_labels("tweet-sentiment", 3)[0] == "class 0"
    assert default_labels("own", 2) == ("class 0", "class 1")
