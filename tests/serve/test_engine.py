"""The engine: many callers, mixed batches, each its own answer."""

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
from keras.layers import Dense, Flatten, Reshape

import keras_lora
from keras_lora.serve import (
    Engine,
    NotServing,
    QueueFull,
    RefusedInput,
    UnknownAdapter,
)
from tests.banks import (
    assert_rows,
    call,
    dense_head,
    few_tasks,
    lora,
    make_task,
    off,
    rows,
    sequential,
)
from tests.helpers import refused
from tests.models import set_random
from tests.serve.served import copy_tasks, engine_on, wait_until

NAMES = ["t0", None, "head", "t1", "wide", "t0", "head", None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return copy_tasks(tmp_path_factory.mktemp("a"), *few_tasks())


def outputs(futures):
    return [future.result(60).outputs for future in futures]


def test_rows_of_many_callers_get_their_own_answers_from_few_batches(folder):
    batches = []
    x, plain = rows(8), call(sequential(), rows(8))
    with engine_on(
        folder, wait=0.2, observe=lambda *batch: batches.append(batch)
    ) as engine:

        def ask(number):
            [future] = engine.predict([x[number]], NAMES[number])
            return future.result(60).outputs

        with ThreadPoolExecutor(8) as callers:
            got = list(callers.map(ask, range(8)))
        assert_rows(got, NAMES, few_tasks(), plain)
        assert len(batches) < 8 and sum(n for _, n, _ in batches) == 8
        # The same as one request, and by the base's own name.
        named = [name or "base" for name in NAMES]
        assert_rows(
            outputs(engine.predict(x, named)), NAMES, few_tasks(), plain
        )


def test_rows_of_other_shapes_are_batched_apart():
    inputs = keras.Input((None, 4))
    y = keras.layers.GlobalAveragePooling1D()(keras.layers.Dense(3)(inputs))
    base = keras.Model(inputs, y)
    some, others = rows(3, 5, 4), rows(3, 7, 4)
    want = [*call(base, some), *call(base, others)]
    batches = []
    with engine_on(
        base=base, wait=0.2, observe=lambda *batch: batches.append(batch)
    ) as engine:
        got = outputs(engine.predict([*some, *others]))
        assert [n for _, n, _ in batches] == [3, 3]
    assert all(off(a, b) < 1e-5 for a, b in zip(got, want, strict=True))


def test_a_bad_row_fails_alone(folder):
    def fussy(texts):
        if "bad" in texts:
            raise ValueError("no such word")
        return np.stack([rows(8)[int(text)] for text in texts])

    texts = ["0", "1", "bad", "3", "4", "5", "6", "7"]
    plain = call(sequential(), rows(8))
    with engine_on(folder, wait=0.1, preprocessor=fussy) as engine:
        futures = engine.predict(texts, NAMES)
        with pytest.raises(ValueError, match="no such word"):
            futures.pop(2).result(60)
        kept = [n for n in range(8) if n != 2]
        for number, got in zip(kept, outputs(futures), strict=True):
            name = NAMES[number]
            task = few_tasks().get(name)
            assert off(got, task.row(number) if task else plain[number]) < 1e-5


@contextlib.contextmanager
def blocked(engine, monkeypatch):
    """Keeps the bank from answering until the event is set, or the end."""
    free, entered, real = threading.Event(), [], engine.bank.predict

    def predict(*args, **kwargs):
        entered.append(args)
        assert free.wait(60)
        return real(*args, **kwargs)

    monkeypatch.setattr(engine.bank, "predict", predict)
    free.entered = entered
    try:
        yield free
    finally:
        free.set()


def test_a_full_queue_takes_all_of_a_request_or_nothing(folder, monkeypatch):
    with (
        engine_on(folder, queue=4, max_batch=1) as engine,
        blocked(engine, monkeypatch) as free,
    ):
        x = rows(8)
        first = engine.predict(x[:1], "t0")
        wait_until(lambda: engine.waiting["predict"] == 0)
        taken = engine.predict(x[1:4], "t0")
        with pytest.raises(QueueFull):
            engine.predict(x[4:6], "t0")
        assert engine.waiting["predict"] == 3
        taken += engine.predict(x[4:5], "t0")
        gone = taken.pop(1)
        assert gone.cancel()  # its caller has left
        free.set()
        got = outputs(first + taken)
        for number, y in zip((0, 1, 3, 4), got, strict=True):
            assert off(y, few_tasks()["t0"].row(number)) < 1e-5
        assert len(outputs(engine.predict(x[:4], "t0"))) == 4


def test_requests_are_taken_while_the_bank_is_held(folder):
    """A forward pass holds it, and nobody may wait for that to be queued."""
    with engine_on(folder) as engine, ThreadPoolExecutor(1) as other:
        with engine.bank.using("t1"):
            asked = other.submit(engine.predict, rows(8), "t0")
            futures = asked.result(20)
            with pytest.raises(UnknownAdapter):
                other.submit(engine.predict, rows(1), "nobody").result(20)
            asked = other.submit(lambda: list(engine.models))
            assert set(asked.result(20)) == set(few_tasks())
        got = np.stack(outputs(futures))
        assert off(got, few_tasks()["t0"].outputs) < 1e-5


def test_what_was_taken_is_answered_before_it_stops(folder, monkeypatch):
    with (
        engine_on(folder, max_batch=2) as engine,
        blocked(engine, monkeypatch) as free,
    ):
        futures = engine.predict(rows(8), "t1")
        assert not engine.stop(0.05)
        with pytest.raises(NotServing):
            engine.predict(rows(1), "t1")
        free.set()
        assert engine.stop(60)
        assert all(future.done() for future in futures)
        got = outputs(futures)
        assert off(np.stack(got), few_tasks()["t1"].outputs) < 1e-5


def test_names_that_are_not_served(folder, monkeypatch):
    with engine_on(folder, max_batch=8) as engine:
        with pytest.raises(UnknownAdapter, match="nobody"):
            engine.predict(rows(2), ["t0", "nobody"])
        assert engine.waiting["predict"] == 0
        with blocked(engine, monkeypatch):
            engine.predict(rows(1), "t0")
            wait_until(lambda: engine.waiting["predict"] == 0)
            futures = engine.predict(rows(2), ["t0", "t1"])
            engine.folder.unload("t1")
        assert off(outputs(futures[:1])[0], few_tasks()["t0"].row(0)) < 1e-5
        with pytest.raises(UnknownAdapter, match="t1"):
            futures[1].result(60)


def test_an_adapter_that_goes_as_the_bank_is_asked(folder, monkeypatch):
    with engine_on(folder, max_batch=4) as engine:
        real = engine.bank.predict

        def predict(*args, **kwargs):
            if "t1" in engine.bank.names:
                engine.folder.unload("t1")
            return real(*args, **kwargs)

        monkeypatch.setattr(engine.bank, "predict", predict)
        [alone] = engine.predict(rows(1), "t1")
        with pytest.raises(UnknownAdapter, match="t1"):
            alone.result(60)
        engine.folder.load("t1")
        first, second = engine.predict(rows(2), ["t1", "t0"])
        with pytest.raises(UnknownAdapter, match="t1"):
            first.result(60)
        got = second.result(60).outputs
        assert off(got, few_tasks()["t0"].row(1)) < 1e-5


def test_an_answer_and_its_labels_are_of_one_file(tmp_path):
    """A file may be replaced by one with other classes at any time."""
    base, x = sequential(), rows(4)
    tasks = {}
    for seed, labels in ((1, ["a", "b"]), (2, ["x", "y", "z"])):
        path = tmp_path / f"{seed}"
        head = dense_head(len(labels))
        task = make_task(base, path, lora(2), x, head=head, seed=seed)
        keras_lora.load_adapter(model := head(base), path)
        keras_lora.save_adapter(model, path, labels=labels)
        keras_lora.eject(base)
        tasks[tuple(labels)] = task
    with engine_on(base=base, wait=0.001) as engine:
        paths = [task.path for task in tasks.values()]
        engine.bank.load("a", paths[0])
        done = threading.Event()

        def replace():
            while not done.is_set():
                for path in paths:
                    engine.bank.load("a", path)

        thread = threading.Thread(target=replace)
        thread.start()
        try:
            seen = set()
            for _ in range(60):
                for number, future in enumerate(engine.predict(x, "a")):
                    found = future.result(60)
                    seen.add(found.labels)
                    want = tasks[found.labels].row(number)
                    assert off(found.outputs, want) < 1e-5
                    assert found.label in found.labels
        finally:
            done.set()
            thread.join()
        assert len(seen) == 2


@pytest.mark.parametrize("units, activation", [(3, None), (3, "softmax")])
def test_probabilities_add_up(units, activation, tmp_path):
    labels = ["a", "b", "c"][:units]
    head = dense_head(units, activation=activation)
    check_shares(head, labels, tmp_path, activation == "softmax")


@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_one_number_tells_two_labels_apart(activation, tmp_path):
    head = dense_head(1, activation=activation)
    check_shares(head, ["no", "yes"], tmp_path, activation == "sigmoid")


def test_a_head_that_is_shaped_behind_its_softmax(tmp_path):
    def head(base):
        top = [Dense(3, activation="softmax"), Reshape((1, 3)), Flatten()]
        model = keras.Sequential([base, *top])
        model.build(base.input_shape)
        return model

    check_shares(head, ["a", "b", "c"], tmp_path, True)


def nested(activation):
    head = keras.Sequential([Dense(4, activation=activation), Flatten()])
    return keras.Sequential([keras.Input((6,)), Dense(8), head])


def by_operation():
    x = keras.Input((6,))
    return keras.Model(x, keras.ops.softmax(Dense(4)(x)))


def behind_softmax():
    x = keras.Input((6,))
    return keras.Model(x, 2 * Dense(4, activation="softmax")(x))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = Dense(4, activation="softmax")

    def call(self, x):
        return self.dense(x)


def subclassed():
    base = Subclassed()
    base(rows(1))
    return base


@pytest.mark.parametrize(
    "make, told",
    [
        (lambda: nested("softmax"), "shares"),
        (lambda: nested(None), "logits"),
        (by_operation, "shares"),
        (behind_softmax, None),
        (subclassed, None),
    ],
)
def test_probabilities_of_a_base_that_ends_in_classes(make, told, tmp_path):
    base, x = make(), rows(4)
    set_random(base.weights, 3)
    keras_lora.inject(base, lora(2))
    set_random(base.trainable_variables, 1, 0.5)
    raw = call(base, x)
    keras_lora.save_adapter(base, tmp_path / "a", labels=["a", "b", "c", "d"])
    keras_lora.eject(base)
    powers = raw if told == "shares" else np.exp(raw)
    want = powers / powers.sum(1, keepdims=True)
    assert np.ptp(want) > 0.05
    with engine_on(base=base) as engine:
        engine.bank.load("a", tmp_path / "a")
        for number, future in enumerate(engine.predict(x, "a")):
            found = future.result(60)
            if told is None:  # the outputs say what there is to say
                assert found.probabilities is None and found.label is None
                assert off(found.outputs, raw[number]) < 1e-5
            else:
                assert off(found.probabilities, want[number]) < 1e-5


def check_shares(head, labels, tmp_path, given):
    base, x = sequential(), rows(4)
    keras_lora.inject(base, lora(2))
    model = head(base)
    for variable in model.trainable_variables:
        variable.assign(0.5 * rows(1, *variable.shape)[0])
    raw = call(model, x)
    keras_lora.save_adapter(model, tmp_path / "a", labels=labels)
    keras_lora.eject(base)
    if len(labels) == 2:
        yes = raw[:, 0] if given else 1 / (1 + np.exp(-raw[:, 0]))
        want = np.stack([1 - yes, yes], 1)
    else:
        powers = raw if given else np.exp(raw)
        want = powers / powers.sum(1, keepdims=True)
    assert np.ptp(want) > 0.05
    with engine_on(base=base) as engine:
        engine.bank.load("a", tmp_path / "a")
        for number, future in enumerate(engine.predict(x, "a")):
            found = future.result(60)
            assert off(found.probabilities, want[number]) < 1e-5
            assert found.label == labels[int(np.argmax(want[number]))]
        [base_row] = engine.predict(x[:1])
        assert base_row.result(60).probabilities is None


def test_the_reader_refuses_what_the_base_does_not_take():
    with engine_on(queue=4) as engine:
        read = engine.reader.rows
        assert read([[1, 2, 3, 4, 5, 6]])[0].dtype == "float32"
        for bad, words in {
            "text": "must be a list",
            3: "must be a list",
            (): "must be a list",
        }.items():
            with pytest.raises(RefusedInput, match=words):
                read(bad)
        for bad, words in (
            ([], "empty"),
            (["text"], "takes arrays"),
            ([[1, 2]], "rows of shape"),
            ([[[1] * 6]], "rows of shape"),
            ([1] * 3, "rows of shape"),
            ([[1] * 6, [1] * 5], "no array"),
            ([[None] * 6], "no array"),
            ([[1, 2, 3, 4, 5, "6"]], "no array"),
            ([[1, 2, 3, 4, 5, 10**400]], "no array"),
            ([[1, 2, 3, 4, 5, 1e39]], "does not hold"),
            ([[1, 2, 3, 4, 5, float("nan")]], "does not hold"),
            ([[1] * 6] * 5, "at most 4"),
            ({"x": [[1] * 6]}, "the base takes"),
            (deep(500), "no array"),
        ):
            with pytest.raises(RefusedInput, match=words):
                read(bad)


def deep(levels):
    found = []
    for _ in range(levels):
        found = [found]
    return found


def test_settings_are_checked():
    bank = keras_lora.AdapterBank(sequential())
    refused(lambda: Engine(bank, max_batch=0, wait=-1), "max_batch", "wait")
    refused(lambda: Engine(bank, max_axis=0), "max_axis")
    refused(lambda: Engine(bank, folder="/nowhere/at/all"), "cannot be read")
    bank.detach()


def test_a_task_makes_its_inputs_of_texts_by_itself(tmp_path):
    pytest.importorskip("keras_hub")
    from tests.presets import TASKS, TEXTS

    task = TASKS["TextClassifier"]()
    plain = task.predict(TEXTS, verbose=0)
    (tmp_path / "a").mkdir()
    keras_lora.inject(task, lora())
    for variable in task.trainable_variables:
        variable.assign(rows(1, *variable.shape)[0])
    adapted = task.predict(TEXTS, verbose=0)
    assert off(adapted, plain) > 1e-3
    keras_lora.save_adapter(
        task, tmp_path / "a" / "film.safetensors", labels=["bad", "good"]
    )
    keras_lora.eject(task)
    with engine_on(tmp_path / "a", task, poll=0.001) as engine:
        wait_until(lambda: "film" in engine.models)
        texts = engine.reader.rows(TEXTS)
        found = [f.result(60) for f in engine.predict(texts, "film")]
        assert off(np.stack([one.outputs for one in found]), adapted) < 1e-5
        powers = np.exp(adapted) / np.exp(adapted).sum(1, keepdims=True)
        for one, want in zip(found, powers, strict=True):
            np.testing.assert_allclose(one.probabilities, want, atol=1e-5)
        assert off(outputs(engine.predict(texts)), list(plain)) < 1e-5
        [wrong] = engine.predict(engine.reader.rows([[1, 2, 3]]), "film")
        with pytest.raises(ValueError, match="preprocessor does not take"):
            wrong.result(60)
