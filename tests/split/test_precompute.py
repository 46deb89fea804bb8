"""Features computed once: what is kept, how it is batched, where it is."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

import keras_lora
from tests.helpers import normal, refused
from tests.models import difference, set_random, to_numpy, to_tensors, values_of

ROOT = Path(__file__).parents[2]
WIDTH = 6


def parts(seed=0, activation="relu"):
    """A frozen base and a head that trains, in two."""
    base = keras.Sequential(
        [keras.Input((WIDTH,)), layers.Dense(8, activation), layers.Dense(4)],
        name="base",
    )
    base.trainable = False
    model = keras.Sequential([base, layers.Dense(2, name="head")])
    set_random(model.weights, seed)
    return keras_lora.split(model)


def sequences(with_mask=True):
    """The same for sequences of any length, with a mask that comes along."""
    inputs = {
        "x": keras.Input((None, WIDTH), name="x"),
        "mask": keras.Input((None,), dtype="int32", name="mask"),
    }
    x = layers.Dense(5, "tanh", name="frozen")(inputs["x"])
    pool = layers.GlobalAveragePooling1D()
    y = layers.Dense(4, name="later")(x)
    y = pool(y, mask=inputs["mask"]) if with_mask else pool(y)
    model = keras.Model(inputs, layers.Dense(1, name="top")(y))
    set_random(model.weights)
    model.get_layer("frozen").trainable = False
    return (model, *keras_lora.split(model))


def padded(lengths, longest=None):
    """Rows of noise with a mask that says how long each is."""
    longest = longest or max(lengths)
    mask = np.arange(longest) < np.array(lengths)[:, None]
    x = normal(len(lengths), longest, WIDTH)
    return {"x": x, "mask": mask.astype("int32")}


def made(frozen, *args, **kwargs):
    return keras_lora.precompute(frozen, *args, verbose=0, **kwargs)


def all_rows(dataset):
    """What all batches hold, one after the other."""
    batches = [keras.tree.flatten(dataset[n]) for n in range(len(dataset))]
    return [np.concatenate(leaf) for leaf in zip(*batches, strict=True)]


def compiled(model, **options):
    # On TensorFlow, XLA would compile anew for every length of a batch.
    model.compile(
        keras.optimizers.SGD(0.05), "mse", jit_compile=False, **options
    )
    return model


class Pairs(keras.utils.PyDataset):
    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]


def test_rows_in_order_are_what_the_frozen_part_gives():
    frozen, _ = parts()
    x, y, w = normal(50, WIDTH), normal(50, 2, seed=1), normal(50, seed=2)
    dataset = made(frozen, x, y=y, sample_weight=w, batch_size=16)
    features, labels, weights = all_rows(dataset.in_order())
    expected = to_numpy(frozen(to_tensors(x)))
    assert difference([features], [expected]) < 1e-6
    assert np.array_equal(labels, y) and np.array_equal(weights, w)
    assert len(dataset) == 4 and dataset.rows == 50
    assert dataset.nbytes == 50 * 4 * (4 + 2 + 1)


def test_every_row_comes_once_an_epoch_in_an_order_of_the_seed():
    frozen, _ = parts()
    x, y = normal(50, WIDTH), np.arange(50)
    dataset = made(frozen, x, y=y, seed=3)
    first = all_rows(dataset)[1]
    dataset.on_epoch_end()
    second = all_rows(dataset)[1]
    for order in (first, second):
        assert sorted(order) == list(y)
    assert not np.array_equal(first, second)
    assert np.array_equal(all_rows(made(frozen, x, y=y, seed=3))[1], first)
    assert np.array_equal(all_rows(dataset.shuffled(3))[1], first)
    assert not np.array_equal(all_rows(dataset.shuffled(4))[1], first)
    still = made(frozen, x, y=y, shuffle=False)
    still.on_epoch_end()
    assert np.array_equal(all_rows(still)[1], y)


def test_training_on_features_is_training_on_inputs():
    frozen, trainable = parts()
    x, y = normal(40, WIDTH), normal(40, 2)
    start = values_of(trainable.weights)
    compiled(trainable).fit(
        frozen.predict(x, verbose=0), y, batch_size=8, shuffle=False, verbose=0
    )
    whole = values_of(trainable.weights)
    for variable, value in zip(trainable.weights, start, strict=True):
        variable.assign(value)
    dataset = made(frozen, x, y=y, batch_size=8, shuffle=False)
    # Without it Keras would take the batches in an order of its own.
    compiled(trainable).fit(dataset, shuffle=False, verbose=0)
    assert difference(values_of(trainable.weights), whole) < 1e-6
    assert difference(whole, start) > 1e-3


def test_a_pydataset_gives_inputs_labels_and_weights():
    frozen, _ = parts()
    x, y, w = normal(20, WIDTH), np.arange(20), normal(20)
    batches = [(x[n : n + 8], y[n : n + 8], w[n : n + 8]) for n in (0, 8, 16)]
    found = all_rows(made(frozen, Pairs(batches), batch_size=5).in_order())
    assert difference(found[:1], [to_numpy(frozen(to_tensors(x)))]) < 1e-6
    assert np.array_equal(found[1], y) and np.array_equal(found[2], w)


def test_a_pipeline_gives_inputs_and_labels():
    tf = pytest.importorskip("tensorflow")
    frozen, _ = parts()
    x, y = normal(20, WIDTH), np.arange(20)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
    found = all_rows(made(frozen, data).in_order())
    assert difference(found[:1], [to_numpy(frozen(to_tensors(x)))]) < 1e-6
    assert np.array_equal(found[1], y)
    assert all_rows(made(frozen, data.map(lambda x, y: x)))[0].shape == (20, 4)


def test_float16_takes_half_the_room_and_leaves_whole_numbers():
    _, frozen, _ = sequences()
    x = padded([8, 8, 5])
    wide, narrow = made(frozen, x), made(frozen, x, dtype="float16")
    some, others = all_rows(wide.in_order()), all_rows(narrow.in_order())
    kinds = [str(leaf.dtype) for leaf in others]
    assert sorted(kinds) == ["float16", "int32"]
    assert 0 < difference(some, others) < 1e-2
    assert narrow.nbytes < 0.65 * wide.nbytes


def test_values_beyond_float16_are_refused():
    frozen, _ = parts()
    x = 1e6 * np.abs(normal(4, WIDTH))
    refused(lambda: made(frozen, x, dtype="float16"), "beyond float16")


def test_batches_of_unequal_lengths_train_and_are_traced_once(monkeypatch):
    _, frozen, trainable = sequences()
    batches = []
    for seed, length in enumerate([8, 8, 8, 16, 24, 8, 32]):
        x = padded([length] * 4)
        batches.append((x, normal(4, 1, seed=seed)))
    dataset = made(frozen, Pairs(batches), batch_size=4)
    lengths = [dataset[n][0]["mask"].shape[1] for n in range(len(dataset))]
    assert sorted(lengths) == sorted([8, 8, 8, 8, 16, 24, 32])
    assert lengths[0] != lengths[1]
    traces, call = [], trainable.call

    def counted(*args, **kwargs):
        traces.append(1)
        return call(*args, **kwargs)

    trainable.__dict__["call"] = counted
    compiled(trainable).fit(dataset, epochs=4, verbose=0)
    if keras.backend.backend() == "tensorflow":
        assert len(traces) <= 2  # not one a length


def test_rows_are_cut_to_their_content_where_a_mask_is_named():
    model, frozen, trainable = sequences()
    lengths = [3, 40, 9, 17, 5, 33, 8, 30] * 3
    x, y = padded(lengths, 40), normal(24, 1)
    whole = made(frozen, x, y=y)
    dataset = made(frozen, x, y=y, mask="mask", batch_size=4)
    assert dataset.nbytes < 0.7 * whole.nbytes
    shapes = {dataset[n][0]["mask"].shape[1] for n in range(len(dataset))}
    assert shapes == {8, 16, 32, 40}  # those of 24 are with others
    ordered = dataset.in_order()
    compiled(trainable)
    found = trainable.predict(ordered, verbose=0)
    assert difference([found], [model.predict(x, verbose=0)]) < 1e-5
    losses = [trainable.evaluate(each, verbose=0) for each in (dataset, whole)]
    assert abs(losses[0] - losses[1]) < 1e-5


def test_what_is_left_of_each_length_makes_batches_together():
    _, frozen, _ = sequences()
    x, y = padded([8, 8, 8, 16, 16, 24, 24, 24, 24], 24), np.arange(9)
    dataset = made(frozen, x, y=y, mask="mask", batch_size=4)
    batches = [dataset[n] for n in range(len(dataset))]
    assert sorted(len(labels) for _, labels in batches) == [1, 4, 4]
    for features, labels in batches:
        for row, length in zip(
            features["mask"], x["mask"][labels], strict=True
        ):
            assert row.sum() == length.sum()
        for row, label in zip(features["frozen"], labels, strict=True):
            kept = int(x["mask"][label].sum())
            expected = frozen.predict(x, verbose=0)["frozen"][label, :kept]
            assert difference([row[:kept]], [expected]) < 1e-6
    assert sorted(np.concatenate([y for _, y in batches])) == list(range(9))


def test_rows_in_order_are_padded_where_the_first_two_batches_are_alike():
    model, frozen, trainable = sequences()
    x = padded([8] * 8 + [24] * 4, 24)
    ordered = made(frozen, x, mask="mask", batch_size=4).in_order()
    widths = [ordered[n][0]["mask"].shape[1] for n in range(3)]
    assert widths == [8, 16, 24]
    found = compiled(trainable).predict(ordered, verbose=0)
    assert difference([found], [model.predict(x, verbose=0)]) < 1e-5


def test_labels_a_position_are_cut_with_their_rows():
    inputs = keras.Input((None, WIDTH))
    mask = keras.Input((None,), dtype="int32", name="mask")
    x = layers.Dense(5, trainable=False)(inputs)
    y = layers.Dense(1)(x) * keras.ops.cast(mask, "float32")[..., None]
    frozen, trainable = keras_lora.split(keras.Model([inputs, mask], y))
    x = padded([3, 12, 20], 24)
    labels = normal(3, 24)
    dataset = made(frozen, [x["x"], x["mask"]], y=labels, mask="mask")
    for n in range(len(dataset)):
        features, cut = dataset[n]
        assert cut.shape == features["mask"].shape
    compiled(trainable).fit(dataset, verbose=0)


def test_a_wrong_mask_is_refused():
    _, frozen, _ = sequences()
    x = padded([8, 8])
    refused(lambda: made(frozen, x, mask="other"), "'other'", "mask")
    refused(lambda: made(frozen, x, mask="frozen"), "two axes")
    frozen, _ = parts()
    refused(lambda: made(frozen, normal(4, WIDTH), mask="mask"), "no feature")


def test_all_wrong_settings_are_listed():
    frozen, _ = parts()
    x = normal(4, WIDTH)
    refused(
        lambda: made(frozen, x, batch_size=0, dtype="int8", seed=-1),
        "batch_size",
        "dtype",
        "seed",
    )
    refused(lambda: made(frozen, x, y=np.ones(3)), "[3, 4]")
    refused(lambda: made(frozen, x, sample_weight=np.ones(4)), "`y`")
    refused(lambda: made(frozen, "text"), "Received: x of str")
    refused(lambda: made(frozen, Pairs([]), y=x), "come with")
    refused(lambda: made(frozen, Pairs([])), "no batches")
    refused(lambda: made(lambda x: x, x), "Keras model is needed")
    names = np.array(["a", "b", "c", "d"])
    refused(lambda: made(frozen, x, y=names), "a label: <U1 is not kept")


def test_a_part_that_gives_no_row_a_row_is_refused():
    inputs = keras.Input((WIDTH,))
    model = keras.Model(inputs, keras.ops.sum(inputs, 0, keepdims=True))
    refused(lambda: made(model, normal(4, WIDTH)), "(1, 6) for 4 rows")


def test_features_in_a_folder_are_used_again(tmp_path, monkeypatch):
    frozen, trainable = parts()
    x, y = normal(50, WIDTH), normal(50, 2)
    first = made(frozen, x, tmp_path / "cache", y=y, batch_size=16)
    files = sorted(tmp_path.rglob("*"))
    assert isinstance(first._buckets[0].arrays[0], np.memmap)
    assert np.load(tmp_path / "cache/0.1.npy", allow_pickle=False).shape == (
        (50, 4)
    )
    calls = []
    monkeypatch.setattr(
        frozen,
        "predict_on_batch",
        lambda x: calls.append(1) or to_numpy(frozen(to_tensors(x))),
    )
    again = made(frozen, x, tmp_path / "cache", y=y, batch_size=16)
    assert calls == [1]  # the first batch, to compare
    assert all(map(np.array_equal, all_rows(first), all_rows(again)))
    in_memory = made(frozen, x, y=y, batch_size=16)
    assert difference(all_rows(first), all_rows(in_memory)) < 1e-6
    assert sorted(tmp_path.rglob("*")) == files
    compiled(trainable).fit(again, verbose=0)


def changed_weights(frozen):
    frozen.weights[0].assign(2 * frozen.weights[0])


@pytest.mark.parametrize(
    "word, change",
    [
        ("other weights", dict(act=changed_weights)),
        ("inputs are others", dict(x=normal(20, WIDTH, seed=9))),
        ("labels", dict(y=normal(20, 2, seed=9))),
        ("labels", dict(y=None)),
        ("dtype", dict(dtype="float16")),
    ],
)
def test_a_folder_of_other_features_is_refused_and_left(tmp_path, word, change):
    frozen, _ = parts()
    given = {"x": normal(20, WIDTH), "y": normal(20, 2), "dtype": "float32"}
    folder = tmp_path / "cache"
    made(frozen, folder=folder, **given)
    before = {f.name: f.read_bytes() for f in folder.iterdir()}
    change = dict(change)
    change.pop("act", lambda frozen: None)(frozen)
    refused(lambda: made(frozen, folder=folder, **given | change), word)
    assert {f.name: f.read_bytes() for f in folder.iterdir()} == before


def test_a_part_that_computes_something_else_with_equal_weights_is_noticed(
    tmp_path,
):
    frozen, _ = parts()
    x = normal(20, WIDTH)
    made(frozen, x, tmp_path / "cache")
    frozen, _ = parts(activation="tanh")
    refused(lambda: made(frozen, x, tmp_path / "cache"), "other features now")


def test_a_folder_of_something_else_is_refused_and_left(tmp_path):
    frozen, _ = parts()
    (tmp_path / "notes.txt").write_text("mine")
    refused(lambda: made(frozen, normal(4, WIDTH), tmp_path), "no folder of")
    assert [f.name for f in tmp_path.iterdir()] == ["notes.txt"]
    path = tmp_path / "notes.txt"
    refused(lambda: made(frozen, normal(4, WIDTH), path), "no folder of")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert made(frozen, normal(4, WIDTH), empty).rows == 4


@pytest.mark.parametrize("there", [True, False])
def test_a_link_to_a_folder_is_followed(tmp_path, there):
    frozen, _ = parts()
    x, folder, link = normal(8, WIDTH), tmp_path / "big/f", tmp_path / "link"
    if there:
        folder.mkdir(parents=True)
    link.symlink_to(folder)
    assert made(frozen, x, link).rows == 8
    assert link.is_symlink() and (folder / "precomputed.json").is_file()
    files = sorted(tmp_path.rglob("*"))
    assert not [f for f in files if f.name.endswith(".part")]
    assert made(frozen, x, link).rows == made(frozen, x, folder).rows == 8
    assert sorted(tmp_path.rglob("*")) == files


@pytest.mark.parametrize("kind", ["mount point", "working directory"])
def test_a_folder_that_cannot_be_replaced_is_refused_before_any_work(
    tmp_path, monkeypatch, kind
):
    frozen, _ = parts()
    folder, link = tmp_path / "disk", tmp_path / "link"
    folder.mkdir()
    link.symlink_to(folder)
    calls = []
    monkeypatch.setattr(frozen, "predict_on_batch", calls.append)
    if kind == "mount point":
        is_disk = folder.samefile
        monkeypatch.setattr(os.path, "ismount", is_disk)
        places, word = [folder, link], "something is mounted there"
    else:
        monkeypatch.chdir(folder)
        places, word = [".", folder, link], "it is the working directory"
    for place in places:
        refused(lambda p=place: made(frozen, normal(4, WIDTH), p), word)
    assert not calls and not [*folder.iterdir()]
    assert sorted(tmp_path.iterdir()) == [folder, link]


def test_a_path_that_no_folder_can_have_is_refused(tmp_path):
    frozen, _ = parts()
    circle = tmp_path / "circle"
    circle.symlink_to(circle)
    for place in ("a\0b", circle):
        refused(lambda p=place: made(frozen, normal(4, WIDTH), p))


def test_what_fails_on_the_way_leaves_nothing(tmp_path):
    frozen, _ = parts()
    x = normal(8, WIDTH)
    batches = Pairs([x, x, np.ones((4, 99))])
    with pytest.raises(Exception, match="99"):
        made(frozen, batches, tmp_path / "cache")
    assert list(tmp_path.iterdir()) == []


def hostile(index, folder):
    def big(found):
        found["buckets"][0][1][1] = [20, 1 << 39]

    def typed(found):
        found["buckets"][0][1][0] = "|O"

    def pickled(found):
        np.save(folder / "0.1.npy", np.array([{}] * 20), allow_pickle=True)

    def short(found):
        data = (folder / "0.1.npy").read_bytes()
        (folder / "0.1.npy").write_bytes(data[:-4])

    def twice(found):
        data = bytearray((folder / "0.0.npy").read_bytes())
        data[-8:] = data[-16:-8]
        (folder / "0.0.npy").write_bytes(data)

    def gone(found):
        (folder / "0.1.npy").unlink()

    def pipe(found):
        (folder / "0.1.npy").unlink()
        os.mkfifo(folder / "0.1.npy")

    def kind(found):
        found["kind"] = "x"

    def version(found):
        found["version"] = 99

    def none(found):
        found["buckets"] = []

    def nested(found):
        found["buckets"] = [[[[]]]]

    def negative(found):
        found["buckets"][0][1][1] = [20, -4]

    def uneven(found):
        found["buckets"][0][1][1][0] = 19

    return {
        act.__name__: act
        for act in (
            *(big, typed, pickled, short, twice, gone, pipe, kind),
            *(version, none, nested, negative, uneven),
        )
    }[index]


@pytest.mark.parametrize(
    "index",
    [
        "big",
        "typed",
        "pickled",
        "short",
        "twice",
        "gone",
        "pipe",
        "kind",
        "version",
        "none",
        "nested",
        "negative",
        "uneven",
    ],
)
def test_a_hostile_folder_is_refused(tmp_path, index):
    frozen, _ = parts()
    x, folder = normal(20, WIDTH), tmp_path / "cache"
    made(frozen, x, folder)
    found = json.loads((folder / "precomputed.json").read_text())
    hostile(index, folder)(found)
    (folder / "precomputed.json").write_text(json.dumps(found))
    refused(lambda: made(frozen, x, folder), "was not read")


def test_a_huge_or_broken_description_is_refused(tmp_path):
    frozen, _ = parts()
    x, folder = normal(20, WIDTH), tmp_path / "cache"
    made(frozen, x, folder)
    index = folder / "precomputed.json"
    for data in (b" " * (17 << 20), b"[" * 100_000, b"\xff", b"[]"):
        index.write_bytes(data)
        refused(lambda: made(frozen, x, folder), "no folder of")


KILLED = """
import sys
import keras, numpy as np
import keras_lora

class Slow(keras.utils.PyDataset):
    def __len__(self):
        return 1000

    def __getitem__(self, index):
        print(index, flush=True)
        return np.ones((8, 6), "float32")

model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)])
keras_lora.precompute(model, Slow(), sys.argv[1], verbose=0)
"""


@pytest.mark.slow
def test_a_killed_run_leaves_no_folder_of_that_name(tmp_path):
    run = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path / "cache")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"KERAS_BACKEND": keras.backend.backend()},
    )
    for line in run.stdout:
        if line.strip() == "5":
            break
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert not (tmp_path / "cache").exists()
    (left,) = tmp_path.iterdir()
    frozen, _ = parts()
    made(frozen, normal(4, WIDTH), tmp_path / "cache")
    assert left.exists()  # another run may be at work
    long_ago = time.time() - 2 * 24 * 3600
    for path in (left, *left.iterdir()):
        os.utime(path, (long_ago, long_ago))
    keras_lora.precompute(
        frozen, normal(4, WIDTH), tmp_path / "cache2", verbose=0
    )
    assert left.exists()  # of another name
    for path in sorted((tmp_path / "cache").iterdir()):
        path.unlink()
    made(frozen, normal(4, WIDTH), tmp_path / "cache")
    assert not left.exists()


def test_a_bar_shows_how_far_it_is(capsys):
    frozen, _ = parts()
    keras_lora.precompute(frozen, normal(20, WIDTH), batch_size=8)
    assert "3/3" in capsys.readouterr().out
    made(frozen, normal(20, WIDTH), batch_size=8)
    assert capsys.readouterr().out == ""


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="tf.data is TensorFlow's"
)
def test_a_dataset_without_end_is_refused():
    import tensorflow as tf

    frozen, _ = parts()
    data = tf.data.Dataset.from_tensor_slices(normal(8, WIDTH)).batch(4)
    refused(lambda: keras_lora.precompute(frozen, data.repeat()), "for ever")
    once = keras_lora.precompute(frozen, data.repeat().take(2))
    assert len(all_rows(once)[0]) == 8
