"""Fashion-MNIST: the four files, broken ones, what is drawn of them."""

import gzip
import struct

import numpy as np
import pytest

from app.images import data
from app.images.data import DatasetError, load_fashion, pictures
from tests.app.fashion import SMALL, images_file, labels_file, write_fashion


@pytest.fixture
def fashion(tmp_path):
    return write_fashion(tmp_path)


def test_images_are_drawn_without_one_twice(fashion):
    splits = load_fashion(40, 20, 30, folder=fashion)
    assert [len(part) for part in vars(splits).values()] == [40, 20, 30]
    drawn = np.concatenate([splits.train.images, splits.validation.images])
    assert len(np.unique(drawn.reshape(60, -1), axis=0)) == 60
    assert drawn.dtype == "uint8" and drawn.shape == (60, 28, 28)
    assert splits.train.labels.dtype == "int32"


def test_an_image_keeps_its_label(fashion):
    for part in vars(load_fashion(40, 20, 30, folder=fashion)).values():
        # In the files that the test wrote, a pixel says the label.
        assert (part.images[:, 0, 0] == part.labels).all()


def test_a_seed_draws_the_same_images_again(fashion):
    one, again, other = (
        load_fashion(40, 20, 30, folder=fashion, seed=seed).train.images
        for seed in (1, 1, 2)
    )
    assert np.array_equal(one, again) and not np.array_equal(one, other)


def test_more_images_than_there_are_is_said_at_once(fashion):
    with pytest.raises(ValueError) as caught:
        load_fashion(SMALL, 1, SMALL + 1, folder=fashion)
    assert f"{SMALL} + 1 of {SMALL}" in str(caught.value)
    assert f"{SMALL + 1} of {SMALL} to test" in str(caught.value)
    with pytest.raises(ValueError, match="train must be above 0.*test must be"):
        load_fashion(0, 1, -1, folder=fashion)


def test_missing_files_are_named_and_how_to_get_them(fashion):
    (fashion / "train-labels-idx1-ubyte.gz").unlink()
    (fashion / "t10k-images-idx3-ubyte.gz").unlink()
    with pytest.raises(DatasetError) as caught:
        load_fashion(folder=fashion)
    for words in (
        str(fashion),
        "train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz",
        "apt install dataset-fashion-mnist",
    ):
        assert words in str(caught.value)


WHOLE = images_file(np.zeros((3, 28, 28), "uint8"))
BROKEN = {
    "not gzip": (b"no gzip at all", "no whole gzip file"),
    "cut gzip": (WHOLE[:-12], "no whole gzip file"),
    "flipped bytes": (WHOLE[:20] + b"\xff" * 9 + WHOLE[29:], "gzip"),
    "nothing": (gzip.compress(b""), "its head has 0 bytes of 16"),
    "short head": (gzip.compress(bytes(15)), "its head has 15 bytes"),
    "labels": (labels_file(np.zeros(20, "uint8")), "0x00000803"),
    "floats": (
        gzip.compress(struct.pack(">4I", 0x0D03, 3, 28, 28)),
        "begins with 0x00000d03",
    ),
    "other sizes": (
        images_file(np.zeros((3, 28, 29), "uint8")),
        "shape is (3, 28, 29)",
    ),
    "too many": (
        gzip.compress(struct.pack(">4I", 0x0803, 2**31, 28, 28)),
        "1 to 60000",
    ),
    "none": (images_file(np.zeros((0, 28, 28), "uint8")), "1 to 60000"),
    "cut short": (
        gzip.compress(struct.pack(">4I", 0x0803, 3, 28, 28) + bytes(9)),
        "9 bytes where its head, (3, 28, 28), says 2,352",
    ),
    "too long": (
        gzip.compress(gzip.decompress(WHOLE) + b"\0"),
        "more bytes where its head",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_refused_with_its_fault(fashion, kind):
    content, words = BROKEN[kind]
    (fashion / "train-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(DatasetError) as caught:
        load_fashion(folder=fashion)
    assert words in str(caught.value)
    assert "train-images-idx3-ubyte.gz" in str(caught.value)


def test_all_broken_files_are_named_at_once(fashion):
    (fashion / "train-images-idx3-ubyte.gz").write_bytes(WHOLE)
    for part in ("train", "t10k"):
        (fashion / f"{part}-labels-idx1-ubyte.gz").write_bytes(
            labels_file(np.full(SMALL, 10, "uint8"))
        )
    with pytest.raises(DatasetError) as caught:
        load_fashion(folder=fashion)
    for words in (
        f"train: 3 images and {SMALL} labels",
        "train: a label 10",
        "t10k: a label 10",
    ):
        assert words in str(caught.value)


def test_a_file_that_unpacks_to_much_more_is_not_unpacked(fashion):
    bomb = gzip.compress(gzip.decompress(WHOLE) + bytes(1 << 26))
    (fashion / "train-images-idx3-ubyte.gz").write_bytes(bomb)
    with pytest.raises(DatasetError, match="more bytes"):
        load_fashion(folder=fashion)


def test_pictures_are_grey_and_as_large_as_asked_for():
    grey = np.arange(3, dtype="uint8").repeat(784).reshape(3, 28, 28)
    made = pictures(grey, 40)
    assert made.shape == (3, 40, 40, 3) and made.dtype == "uint8"
    assert (made == np.arange(3)[:, None, None, None]).all()
    noise = np.random.default_rng(0).integers(0, 256, (2, 28, 28), "uint8")
    assert (pictures(noise, 28) == noise[..., None]).all()


def test_debians_folder_is_the_default(monkeypatch, fashion, tmp_path):
    monkeypatch.setattr(data, "FOLDER", fashion)
    assert len(load_fashion(40, 20, 30).train) == 40
    monkeypatch.setattr(data, "FOLDER", tmp_path / "no")
    with pytest.raises(DatasetError, match="is not in .*no: train-images"):
        load_fashion()
