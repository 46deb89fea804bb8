"""Names of classes and a short text, which travel in the adapter file."""

import json

import keras
import numpy as np
import pytest
from keras import layers

import keras_lora
from benchmarks import odd_parts
from keras_lora.cli import main
from tests.banks import call, dense_head, lora, rows, sequential, served
from tests.helpers import refused
from tests.models import set_random

LABELS = ["spam", "ham", "größer als 2 %"]


THREE = dense_head(3)


def save(path, head=THREE, seed=1, **described):
    base = sequential()
    keras_lora.inject(base, lora())
    model = head(base) if head else base
    call(model, rows(2))
    set_random(model.trainable_variables, seed)
    keras_lora.save_adapter(model, path, **described)
    return path


def forged(path, **changes):
    """A file whose record says something else."""
    header, record, body = odd_parts.parts(path.read_bytes())
    bad = path.with_name("forged")
    bad.write_bytes(odd_parts.joined(header, {**record, **changes}, body))
    return bad


def test_a_file_tells_its_labels_and_what_it_is_for(tmp_path, capsys):
    about = "Sorts letters.\nTrained on mine."
    path = save(tmp_path / "a", labels=LABELS, about=about)
    info = keras_lora.inspect_adapter(path)
    assert (info.labels, info.about) == (tuple(LABELS), about)
    assert main(["inspect", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "labels (3): spam, ham, größer als 2 %" in shown
    assert "about: Sorts letters.\n  Trained on mine." in shown


def test_a_file_without_them_is_the_file_it_was(tmp_path):
    plain = save(tmp_path / "a")
    info = keras_lora.inspect_adapter(plain)
    assert (info.labels, info.about) == ((), "")
    _, record, _ = odd_parts.parts(plain.read_bytes())
    assert not {"labels", "about"} & record.keys()
    described = save(tmp_path / "b", labels=tuple(LABELS), about="Mail")
    assert plain.read_bytes() != described.read_bytes()
    assert (
        described.read_bytes()
        == (
            save(tmp_path / "c", labels=np.array(LABELS), about="Mail")
        ).read_bytes()
    )


@pytest.mark.parametrize(
    "labels",
    [
        "abc",
        7,
        [],
        ["one"],
        ["a", "b", 3],
        ["a", "b", "a"],
        ["a", "b", ""],
        ["a", "b", "  "],
        ["a", "b", "\x1b[31m"],
        ["a", "b", "two\nlines"],
        ["a", "b", "\ud800"],
        ["a", "b", "x" * 201],
        [f"{n}" for n in range(100_001)],
    ],
    ids=range(13),
)
def test_labels_that_are_none_are_refused_by_writer_and_reader(
    labels, tmp_path
):
    good = save(tmp_path / "good", labels=LABELS)
    refused(lambda: save(tmp_path / "bad", labels=labels), "labels")
    assert not (tmp_path / "bad").exists()
    bad = forged(good, labels=labels)
    refused(lambda: keras_lora.inspect_adapter(bad), "labels")


@pytest.mark.parametrize("about", [None, 3, "\x00", "x" * 2001, ["a"]])
def test_a_text_that_is_none_is_refused(about, tmp_path):
    good = save(tmp_path / "good")
    refused(lambda: save(tmp_path / "bad", about=about), "about")
    refused(
        lambda: keras_lora.inspect_adapter(forged(good, about=about)), "about"
    )


def test_there_are_as_many_labels_as_outputs(tmp_path):
    def many(count):
        return [f"label {n}" for n in range(count)]

    for count in (2, 4):
        refused(
            lambda n=count: save(tmp_path / "a", labels=many(n)),
            f"{count} labels",
            "3 a row",
        )
    # The base itself gives 4; one number tells two classes apart.
    refused(lambda: save(tmp_path / "a", head=None, labels=many(3)), "4 a row")
    save(tmp_path / "own", head=None, labels=many(4))
    save(tmp_path / "one", dense_head(1, activation="sigmoid"), labels=many(2))
    good = save(tmp_path / "good", labels=LABELS)
    bad = forged(good, labels=many(5))
    refused(lambda: keras_lora.inspect_adapter(bad), "5 labels", "3 a row")


def test_a_bank_checks_what_the_file_alone_does_not_tell(tmp_path):
    good = save(tmp_path / "good", head=None)
    bad = forged(good, labels=["yes", "no", "maybe"])
    assert keras_lora.inspect_adapter(bad).labels
    with served(sequential()) as bank:
        refused(lambda: bank.load("a", bad), "3 labels", "4 a row")
        assert bank.names == []


def test_a_bank_keeps_them(tmp_path):
    path = save(tmp_path / "a", labels=LABELS, about="Mail")
    with served(sequential()) as bank:
        bank.load("mail", path)
        assert bank.info("mail").labels == tuple(LABELS)
        refused(lambda: bank.info("other"), "mail")
        bank.save(tmp_path / "bank")
        if keras.backend.backend() == "tensorflow":
            bank.export(tmp_path / "exported")
            table = json.loads(
                (tmp_path / "exported" / "adapters.json").read_text()
            )
            assert table["labels"] == {"mail": LABELS}
    again = keras_lora.AdapterBank.restore(sequential(), tmp_path / "bank")
    info = again.info("mail")
    assert (info.labels, info.about) == (tuple(LABELS), "Mail")
    again.detach()


def test_what_is_combined_has_the_labels_of_its_head(tmp_path):
    first = save(tmp_path / "a", labels=LABELS, about="Mail")
    other = save(tmp_path / "b", labels=["x", "y", "z"], seed=2)
    for head, labels in ((0, tuple(LABELS)), (1, ("x", "y", "z")), (False, ())):
        keras_lora.combine([(first, 1), (other, 2)], tmp_path / "c", head=head)
        info = keras_lora.inspect_adapter(tmp_path / "c")
        assert (info.labels, info.about) == (labels, "")


def test_a_head_of_several_layers_tells_its_outputs(tmp_path):
    def pooled(base):
        top = [layers.Reshape((2, 2)), layers.Flatten()]
        return keras.Sequential([base, *top])

    save(tmp_path / "a", pooled, labels=["a", "b", "c", "d"])
    refused(lambda: save(tmp_path / "b", pooled, labels=LABELS), "4 a row")
