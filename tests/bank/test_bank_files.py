"""A bank as a folder, and as a SavedModel that runs without Keras."""

import json
import os
import shutil
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
from keras import layers

import keras_lora
from keras_lora import AdapterBank
from keras_lora.bank import folder as bank_folder
from tests.bank.test_bank import Failing, refused
from tests.banks import (
    assert_rows,
    bottleneck,
    call,
    dense_head,
    few_tasks,
    loaded,
    lora,
    make_task,
    off,
    rows,
    sequential,
    served,
)
from tests.methods.contract import Facts
from tests.models import set_random

TENSORFLOW = keras.backend.backend() == "tensorflow"
on_tensorflow = pytest.mark.skipif(
    not TENSORFLOW, reason="a SavedModel is TensorFlow's"
)


@pytest.fixture
def base():
    return sequential()


@pytest.fixture
def x():
    return rows(8)


@pytest.fixture
def tasks():
    return {
        name: few_tasks()[name] for name in ("t0", "t1", "t2", "head", "wide")
    }


def contents(folder):
    """Every file of a folder and what it holds."""
    return {p.name: p.read_bytes() for p in folder.iterdir()}


# save and restore.


def test_a_restored_bank_answers_alike(base, x, tasks, tmp_path):
    names = ["t0", "head", None, "wide", "t2", "t1", "head", "t0"]
    with served(base, capacity=3, rank=3, targets="all-linear") as bank:
        loaded(bank, tasks)
        # A file it came from is not needed any more.
        copy = shutil.copy(tasks["t0"].path, tmp_path / "copy.safetensors")
        bank.load("t0", copy)
        os.remove(copy)
        bank.save(tmp_path / "bank")
    assert len(contents(tmp_path / "bank")) == 7  # the index and a lock too
    again = AdapterBank.restore(base, tmp_path / "bank")
    try:
        assert again.names == list(tasks)
        got = again.predict(x, adapter=names)
        assert_rows(got, names, tasks, call(base, x))
        again.save(tmp_path / "copy")
    finally:
        again.detach()
    assert contents(tmp_path / "copy") == contents(tmp_path / "bank")


def test_an_empty_bank_is_saved_too(base, tmp_path):
    with served(base, capacity=2) as bank:
        bank.save(tmp_path / "a" / "bank")
    again = AdapterBank.restore(base, tmp_path / "a" / "bank")
    assert again.names == []
    again.detach()


def test_saved_files_are_adapters(base, x, tasks, tmp_path):
    with served(base) as bank:
        loaded(bank, tasks)
        bank.save(tmp_path / "bank")
    index = json.loads((tmp_path / "bank" / "bank.json").read_text())
    keras_lora.load_adapter(
        base, tmp_path / "bank" / index["adapters"]["t2"], head=False
    )
    assert off(call(base, x), tasks["t2"].outputs) <= 1e-6


def test_files_of_the_earlier_bank_go_and_others_stay(base, tasks, tmp_path):
    folder = tmp_path / "bank"
    with served(base) as bank:
        loaded(bank, tasks)
        bank.save(folder)
        (folder / "notes.txt").write_text("mine")
        mine = folder / "mine-0123456789abcdef.safetensors"
        mine.write_bytes(b"mine")
        before = set(contents(folder))
        bank.unload("t0")
        bank.load("t1", tasks["t2"].path)
        bank.save(folder)
    now = contents(folder)
    gone = before - set(now)
    assert sorted(name.split("-")[0] for name in gone) == ["t0", "t1"]
    assert now["notes.txt"] == now[mine.name] == b"mine"


def test_an_index_from_elsewhere_removes_nothing(base, tasks, tmp_path):
    folder = tmp_path / "bank"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    (tmp_path / "above.txt").write_text("mine")
    with served(base) as bank:
        bank.load("t0", tasks["t0"].path)
        for files in (
            {"a": "notes.txt"},
            {"a": "bank.json"},
            {"a": "../above.txt"},
            {"a": ".."},
            {"a": str(tmp_path / "above.txt")},
            ["notes.txt"],
        ):
            index = {"format": 1, "adapters": files}
            index |= {"capacity": 8, "rank": None, "targets": None}
            (folder / "bank.json").write_text(json.dumps(index))
            bank.save(folder)
            assert (folder / "notes.txt").read_text() == "mine"
            assert (tmp_path / "above.txt").read_text() == "mine"
            assert bank_folder.read_index(folder)["adapters"].keys() == {"t0"}


def test_a_damaged_file_of_the_same_name_is_written_anew(
    base, x, tasks, tmp_path
):
    folder = tmp_path / "bank"
    with served(base) as bank:
        bank.load("t0", tasks["t0"].path)
        bank.save(folder)
        [saved] = folder.glob("*.safetensors")
        saved.write_bytes(saved.read_bytes()[:-8])
        bank.save(folder)
    again = AdapterBank.restore(base, folder)
    assert off(again.predict(x, adapter="t0"), tasks["t0"].outputs) <= 1e-6
    again.detach()


@pytest.mark.parametrize(
    "step, at",
    [
        ("open", 1),
        ("open", 4),
        ("replace", 1),
        ("replace", 3),
        ("replace", 4),
        ("fsync", 2),
        ("unlink", 1),
        ("unlink", 3),
    ],
)
def test_a_crash_while_saving_loses_nothing(
    step, at, base, x, tasks, tmp_path, monkeypatch
):
    """At each write, and at each removal after the index is there."""
    folder = tmp_path / "bank"
    with served(base) as bank:
        for name in ("t0", "t1", "wide"):
            bank.load(name, tasks[name].path)
        bank.save(folder)
        bank.unload("t1")
        bank.load("t0", tasks["t2"].path)
        bank.load("wide", tasks["t1"].path)
        bank.load("more", tasks["head"].path)
        place = {
            "open": (os, "fdopen"),
            "replace": (os, "replace"),
            "fsync": (os, "fsync"),
            "unlink": (bank_folder.Path, "unlink"),
        }[step]
        real, count = getattr(*place), [0]

        def crashing(*args, **kwargs):
            count[0] += 1
            if count[0] >= at:
                raise Failing
            return real(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(*place, crashing)
            with pytest.raises(Failing):
                bank.save(folder)
    new = step == "unlink"
    assert not list(folder.glob(".*")), "a half-written file was left"
    again = AdapterBank.restore(base, folder)
    want = {"t0": "t2", "wide": "t1", "more": "head"}
    old = {"t0": "t0", "t1": "t1", "wide": "wide"}
    assert sorted(again.names) == sorted(want if new else old)
    for name, task in (want if new else old).items():
        got = again.predict(x, adapter=name)
        assert off(got, tasks[task].outputs) <= 1e-5
    # The next `save` is whole again.
    again.save(folder)
    again.detach()
    AdapterBank.restore(base, folder).detach()


def test_a_folder_that_is_not_in_order_is_refused_whole(base, tasks, tmp_path):
    folder = tmp_path / "bank"
    before = Facts(base)
    refused(lambda: AdapterBank.restore(base, folder), "bank.json")
    with served(base) as bank:
        loaded(bank, {name: tasks[name] for name in ("t0", "t1")})
        bank.save(folder)
    good = json.loads((folder / "bank.json").read_text())
    files = good["adapters"]

    def broken(**changes):
        def restore():
            index = {**good, **changes}
            (folder / "bank.json").write_text(json.dumps(index))
            AdapterBank.restore(base, folder)

        return restore

    for act, *words in (
        (broken(format=2), "format"),
        (broken(adapters=None), "adapters"),
        (broken(adapters={"../a": files["t0"]}), "../a"),
        (broken(adapters={"a": "../x", "b": "none"}), "'../x'", "none"),
        (broken(capacity=0, rank="x"), "capacity=0", "rank='x'"),
        (broken(targets=["no_such"]), "no_such"),
    ):
        refused(act, *words)
    (folder / "bank.json").write_text("{")
    refused(lambda: AdapterBank.restore(base, folder), "bank.json")
    (folder / "bank.json").write_text(json.dumps(good))
    path = folder / files["t1"]
    path.write_bytes(path.read_bytes()[:-4])
    refused(lambda: AdapterBank.restore(base, folder), files["t1"])
    before.assert_same(Facts(base))
    other = sequential(seed=5)
    path.unlink()
    refused(lambda: AdapterBank.restore(base, folder), "missing")
    good["adapters"].pop("t1")
    (folder / "bank.json").write_text(json.dumps(good))
    refused(lambda: AdapterBank.restore(other, folder), "another base")
    with served(other):
        pass
    AdapterBank.restore(base, folder).detach()


def test_a_folder_that_cannot_be_written_says_so(base, tasks, tmp_path):
    (tmp_path / "file").write_text("mine")
    with served(base) as bank:
        bank.load("t0", tasks["t0"].path)
        refused(lambda: bank.save(tmp_path / "file"), "was not saved")
        refused(lambda: bank.save(tmp_path / "file" / "in"), "was not saved")
    assert (tmp_path / "file").read_text() == "mine"


# export.


RUN = """
import sys
for name in ("keras", "keras_lora", "tf_keras", "keras_hub"):
    sys.modules[name] = None
import json
import numpy as np
import tensorflow as tf
folder, feeds, results = sys.argv[1:]
model = tf.saved_model.load(folder)
table = json.load(open(folder + "/adapters.json"))
x = dict(np.load(feeds))
names = [str(name) for name in x.pop("names")]
ids = [table["adapters"].get(n, table["base"]) for n in names]
ids = [int(n[3:]) if n.startswith("id:") else i for n, i in zip(names, ids)]
x["adapter_ids"] = np.array(ids, "int32")
x = {key: tf.constant(value) for key, value in x.items()}
signature = model.signatures["serving_default"]
got = {}
for jit in (False, True):
    run = tf.function(lambda: signature(**x), jit_compile=jit)
    for key, value in run().items():
        got[f"{key}/{int(jit)}"] = value.numpy()
small = {key: value[:1] for key, value in x.items()}
for key, value in signature(**small).items():
    got[f"{key}/one"] = value.numpy()
got["keras"] = np.array([bool(sys.modules.get("keras"))])
np.savez(results, **got)
"""


def run_without_keras(folder, x, names, tmp_path):
    """Runs an exported bank in a process that cannot import Keras."""
    feeds, results = tmp_path / "feeds.npz", tmp_path / "results.npz"
    np.savez(
        feeds, names=np.array(["" if n is None else n for n in names]), **x
    )
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(folder), str(feeds), str(results)],
        capture_output=True,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert done.returncode == 0, textwrap.dedent(done.stderr)[-3000:]
    with np.load(results) as found:
        got = dict(found)
    assert not got.pop("keras")[0]
    return got


@on_tensorflow
def test_an_exported_bank_runs_without_keras(base, x, tasks, tmp_path):
    tasks["a.b-c_D"] = make_task(
        base,
        tmp_path / "odd",
        bottleneck(2, targets=["dense_1"], layer_norm=True),
        x,
        head=dense_head(3, 5, activation="softmax"),
        seed=7,
    )
    names = ["t0", "head", None, "wide", "id:-1", "a.b-c_D", "id:99", "t2"]
    with served(base, capacity=2) as bank:
        loaded(bank, tasks)
        before = bank.predict(x, adapter="t2")
        weights = [v.path for v in base.weights]
        bank.export(tmp_path / "saved")
        assert weights == [v.path for v in base.weights]
        assert off(bank.predict(x, adapter="t2"), before) <= 1e-6
        with bank.using("t1"):
            got = base.predict(x, verbose=0)
        assert off(got, tasks["t1"].outputs) <= 1e-5
        refused(lambda: bank.export(tmp_path / "saved"), "there already")
        input_name = next(iter(feeds_names(bank)))
        plain = call(base, x)
    assert not list(tmp_path.glob(".saved*"))
    got = run_without_keras(
        tmp_path / "saved", {input_name: x}, names, tmp_path
    )
    heads = {"head", "a.b-c_D"}
    assert {key.split("/")[0] for key in got} == {"features", *heads}
    for jit in ("0", "1"):
        for row, name in enumerate(names):
            features = got[f"features/{jit}"][row]
            if name is not None and name.startswith("id:"):
                assert np.isnan(features).all()
            elif name is None:
                assert off(features, plain[row]) <= 1e-5
            elif name not in heads:
                assert off(features, tasks[name].row(row)) <= 1e-5
            else:
                assert np.isfinite(features).all()
            for head in heads:
                value = got[f"{head}/{jit}"][row]
                if head == name:
                    assert off(value, tasks[name].row(row)) <= 1e-5
                else:
                    assert np.isnan(value).all()
    assert off(got["features/one"], got["features/0"][:1]) <= 1e-5


def feeds_names(bank):
    return [t.name for t in bank.model.inputs if t.name != "adapter_ids"]


@pytest.mark.extra
@on_tensorflow
def test_an_exported_bank_with_a_dict_of_inputs(tmp_path):
    words = keras.Input((5,), dtype="int32", name="words")
    more = keras.Input((3,), name="more")
    y = layers.Dense(8, activation="tanh")(layers.Embedding(11, 6)(words))
    z = layers.Dense(4)(layers.Concatenate()([layers.Flatten()(y), more]))
    base = keras.Model({"words": words, "more": more}, {"y": y, "z": z})
    set_random(base.weights)
    x = {
        "words": np.random.default_rng(1).integers(0, 11, (4, 5), "int32"),
        "more": rows(4, 3),
    }
    tasks = {
        "a": make_task(base, tmp_path / "a", lora(targets=".*"), x),
        "b": make_task(base, tmp_path / "b", bottleneck(targets=["dense"]), x),
    }
    with served(base, capacity=1) as bank:
        loaded(bank, tasks)
        bank.export(tmp_path / "saved")
    names = ["a", "b", "id:-1", None]
    got = run_without_keras(tmp_path / "saved", x, names, tmp_path)
    plain = call(base, x)
    for key, values in plain.items():
        for jit in ("0", "1"):
            found = got[f"features_{key}/{jit}"]
            for row, name in enumerate(names):
                if name == "id:-1":
                    assert np.isnan(found[row]).all()
                    continue
                want = values if name is None else tasks[name].outputs[key]
                assert off(found[row], want[row]) <= 1e-5


@on_tensorflow
def test_an_empty_bank_exports_the_base(base, x, tmp_path):
    with served(base) as bank:
        bank.export(tmp_path / "deep" / "saved")
        [name] = feeds_names(bank)
        plain = call(base, x)
    import tensorflow as tf

    saved = tf.saved_model.load(str(tmp_path / "deep" / "saved"))
    ids = np.array([0, 1] * 4, "int32")
    feeds = {name: x, "adapter_ids": ids}
    got = saved.signatures["serving_default"](
        **{key: tf.constant(value) for key, value in feeds.items()}
    )["features"].numpy()
    assert off(got[::2], plain[::2]) <= 1e-5
    assert np.isnan(got[1::2]).all()


@on_tensorflow
def test_a_failed_export_leaves_nothing(base, x, tasks, tmp_path, monkeypatch):
    with served(base, capacity=2) as bank:
        loaded(bank, tasks)
        before = bank.predict(x, adapter="t0")
        weights = [id(v) for v in base.weights]

        def failing(*args, **kwargs):
            raise Failing

        with monkeypatch.context() as patch:
            patch.setattr(keras.Model, "export", failing)
            with pytest.raises(Failing):
                bank.export(tmp_path / "saved")
        assert weights == [id(v) for v in base.weights]
        assert not list(tmp_path.glob("*saved*"))
        assert off(bank.predict(x, adapter="t0"), before) <= 1e-6
        bank.load("features", tasks["head"].path)
        refused(lambda: bank.export(tmp_path / "saved"), "'features'")
        bank.unload("features")
        bank.export(tmp_path / "saved")
    base.compile("sgd", "mse")
    base.fit(x, rows(8, 4), verbose=0)


@pytest.mark.skipif(TENSORFLOW, reason="TensorFlow writes SavedModels")
def test_export_names_the_backend_it_needs(base, tmp_path):
    with served(base) as bank:
        refused(lambda: bank.export(tmp_path / "saved"), "TensorFlow")
    assert not (tmp_path / "saved").exists()


def test_heads_differ_in_width_after_a_restore(base, x, tasks, tmp_path):
    wider = make_task(
        base, tmp_path / "wider", lora(), x, head=dense_head(4, 7)
    )
    with served(base) as bank:
        bank.load("head", tasks["head"].path)
        bank.load("wider", wider.path)
        bank.save(tmp_path / "bank")
    again = AdapterBank.restore(base, tmp_path / "bank")
    got = again.predict(x, adapter=["head", "wider"] * 4)
    assert_rows(got, ["head", "wider"] * 4, {**tasks, "wider": wider}, None)
    again.detach()


def test_layers_of_keras_only_are_rebuilt(base, x, tmp_path):
    """A head in a file runs no code of its own."""
    task = make_task(
        base,
        tmp_path / "lambda",
        lora(),
        x,
        head=lambda base: keras.Sequential(
            [base, layers.Lambda(lambda y: 2 * y), layers.Dense(2)]
        ),
    )
    with served(base) as bank:
        refused(lambda: bank.load("a", task.path), "outer model only")
