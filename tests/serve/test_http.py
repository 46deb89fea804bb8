"""The routes: answers, OpenAI's shapes, and each failure's status."""

import json
import logging
import threading
import tracemalloc

import keras
import numpy as np
import pydantic
import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

import keras_lora
from keras_lora.errors import raise_if
from keras_lora.serve import Engine
from keras_lora.serve.app import create_app
from keras_lora.serve.bodies import Complete, Predict
from keras_lora.serve.errors import RefusedInput
from keras_lora.serve.gate import Limits
from tests.banks import (
    call,
    dense_head,
    few_tasks,
    lora,
    make_task,
    off,
    rows,
    sequential,
)
from tests.models import set_random
from tests.serve.served import copy_tasks, put, wait_until
from tests.serve.test_engine import blocked

TOKEN = "a-token-of-some-length"
AUTH = {"authorization": f"Bearer {TOKEN}"}
LABELS = ["no", "yes"]
X = rows(8)


def app_on(folder, token=None, limits=None, base=sequential, **options):
    """An application over an engine on a small bank."""
    options = {"poll": 0.05, "queue": 64, **options}

    def make(observe):
        bank = keras_lora.AdapterBank(base(), rank=3)
        return Engine(bank, folder=folder, observe=observe, **options)

    return create_app(make, token=token, limits=limits or Limits(body=100_000))


def ready(client):
    wait_until(lambda: client.get("/health").status_code == 200)
    return client


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = copy_tasks(tmp_path_factory.mktemp("a"), *few_tasks())
    labelled(folder / "labelled.safetensors")
    (folder / "broken.safetensors").write_bytes(b"junk")
    return folder


def labelled(path):
    """The task with a head of two outputs, with labels."""
    base = sequential()
    model = keras_lora.load_adapter(_with_head(base), few_tasks()["head"].path)
    keras_lora.save_adapter(model, path, labels=LABELS, about="Yes or no?")


def _with_head(base):
    from tests.banks import dense_head

    return dense_head(2)(base)


@pytest.fixture(scope="module")
def app(folder):
    return app_on(folder)


@pytest.fixture(scope="module")
def client(app):
    with TestClient(app, raise_server_exceptions=False) as client:
        yield ready(client)


@pytest.fixture(scope="module")
def locked(folder):
    """A server that asks for a token."""
    app = app_on(folder, token=TOKEN)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield ready(client)


def predict(client, model, inputs, **options):
    body = {"model": model, "inputs": inputs}
    return client.post("/v1/predict", json=body, **options)


def failed(response, status, *words):
    """A failure in the shape that OpenAI's clients read."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    kind = "server_error" if status >= 500 else "invalid_request_error"
    assert error["type"] == kind and error["message"]
    for word in words:
        assert word in error["message"], error["message"]
    assert len(response.text) < 5000
    return error


def test_rows_are_answered_by_the_models_they_name(client):
    names = ["t0", "base", "head", "wide"]
    found = predict(client, names, X[:4].tolist())
    assert found.status_code == 200, found.text
    data = found.json()["data"]
    assert [one["model"] for one in data] == names
    assert [one["index"] for one in data] == [0, 1, 2, 3]
    plain = call(sequential(), X)
    for number, one in enumerate(data):
        task = few_tasks().get(names[number])
        want = task.row(number) if task else plain[number]
        assert off(np.array(one["outputs"]), want) < 1e-5
    one = predict(client, "t1", X.tolist()).json()["data"]
    got = np.array([o["outputs"] for o in one])
    assert off(got, few_tasks()["t1"].outputs) < 1e-5


def test_labels_and_probabilities(client):
    data = predict(client, "labelled", X.tolist()).json()["data"]
    logits = few_tasks()["head"].outputs
    powers = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert len({one["label"] for one in data}) == 2
    for one, want in zip(data, powers, strict=True):
        assert list(one["probabilities"]) == LABELS
        got = list(one["probabilities"].values())
        np.testing.assert_allclose(got, want, atol=1e-5)
        assert one["label"] == LABELS[int(np.argmax(want))]


def test_models_are_listed_with_their_parent(client):
    found = client.get("/v1/models").json()
    by_name = {one["id"]: one for one in found["data"]}
    assert set(by_name) == {"base", "labelled", *few_tasks()}
    assert by_name["base"]["parent"] is None
    one = by_name["labelled"]
    assert one["parent"] == "base" and one["object"] == "model"
    assert (one["labels"], one["about"]) == (LABELS, "Yes or no?")
    assert client.get("/v1/models/labelled").json() == one
    assert found["not_served"]["broken"]["state"] == "refused"
    assert "safetensors" in found["not_served"]["broken"]["problem"]
    failed(client.get("/v1/models/nobody"), 404)


def test_a_name_that_is_not_served(client):
    assert failed(predict(client, "nobody", X.tolist()), 404, "nobody")[
        "code"
    ] == ("model_not_found")
    names = ["t0", "nobody"] * 4
    failed(predict(client, names, X.tolist()), 404, "nobody")


def test_an_adapter_that_goes_right_after_a_look(monkeypatch):
    app = app_on(None)
    with TestClient(app, raise_server_exceptions=False) as client:
        ready(client)
        bank = app.state.service.engine.bank
        look = bank.info

        def last_look(name):
            info = look(name)
            bank.unload(name)
            return info

        def unknown_after(ask):
            bank.load("t0", few_tasks()["t0"].path)
            with monkeypatch.context() as patch:
                patch.setattr(bank, "info", last_look)
                first = ask()
            failed(ask(), 404, "t0")
            return first

        failed(
            unknown_after(lambda: predict(client, "t0", X.tolist())), 404, "t0"
        )
        # One look is all that it takes to describe it.
        told = unknown_after(lambda: client.get("/v1/models/t0"))
        assert told.status_code == 200 and told.json()["id"] == "t0"


@pytest.mark.parametrize(
    "name", ["../t0", "/etc/passwd", "t0\0", "", ".", "a" * 101, "ä", "\ud800"]
)
def test_a_name_that_is_none(client, locked, name):
    body = json.dumps({"model": name, "inputs": X.tolist()})
    json_type = {"content-type": "application/json"}
    failed(client.post("/v1/predict", content=body, headers=json_type), 400)
    for route in ("load", "unload"):
        failed(
            locked.post(
                f"/v1/{route}_lora_adapter",
                content=json.dumps({"lora_name": name}),
                headers={**AUTH, **json_type},
            ),
            400,
        )


@pytest.mark.parametrize(
    "inputs",
    [
        "text",
        [],
        {},
        None,
        [["a"] * 6],
        ["a text"],
        [[1] * 5],
        [[1] * 7],
        [[1] * 6, [1] * 5],
        [[None] * 6],
        [[1e300] * 6],
        [[10**500] * 6],
        [1, 2, 3],
        {"other": [[1] * 6]},
        [[1] * 6] * 65,
    ],
    ids=range(15),
)
def test_inputs_that_the_base_does_not_take(client, inputs):
    failed(predict(client, "t0", inputs), 422)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"model": "t0"}',
        b'{"model": 3, "inputs": []}',
        b'{"model": "t0", "inputs": [[1,2,3,4,5,6]], "more": 1}',
        b'{"model": "t0", "inputs": [[NaN,2,3,4,5,6]]}',
        b'{"model": "t0", "inputs": ["\\ud800"]}',
        b'{"model": "t0", "inputs": ' + b"[" * 20_000 + b"]" * 20_000 + b"}",
        b'{"model": ' + b'{"a":' * 9_000 + b"1" + b"}" * 9_000 + b"}",
        b'{"model": "t0", "inputs": [[' + b"9" * 5_000 + b",2,3,4,5,6]]}",
        b"\xff\xfe\x00",
        b'{"model": ["t0", "t1"], "inputs": [[1,2,3,4,5,6]]}',
    ],
    ids=range(13),
)
def test_bodies_that_are_none(client, content):
    headers = {"content-type": "application/json"}
    answer = client.post("/v1/predict", content=content, headers=headers)
    failed(answer, 422)


def test_a_hundred_thousand_names(client):
    names = [f"n{number}" for number in range(10_000)]
    failed(predict(client, names, X.tolist()), 422, "10,000 models")
    failed(predict(client, "x" * 50_000, X.tolist()), 400)


def test_a_long_text_among_many_short_ones_takes_no_memory(app, client):
    inputs = [["A" * 10_000, *[""] * 1_000]]
    tracemalloc.start()
    try:
        with pytest.raises(RefusedInput, match="no array of numbers"):
            app.state.service.engine.reader.rows(inputs)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4_000_000
    failed(predict(client, "t0", inputs), 422)


@pytest.mark.parametrize(
    "kind, more",
    [
        (Predict, {"model": [1] * 1_000}),
        (Complete, {"prompt": [1] * 1_000}),
        (Complete, {"stop": [1] * 1_000}),
        (Complete, {"logit_bias": {str(n): "x" for n in range(1_000)}}),
        (Complete, {str(n): 1 for n in range(1_000)}),
    ],
    ids=range(5),
)
def test_what_is_wrong_a_thousand_times_is_told_once(client, kind, more):
    fields = {"model": "t0", "inputs": [], "prompt": "x"}
    body = {k: fields[k] for k in kind.model_fields if k in fields} | more
    route = "predict" if kind is Predict else "completions"
    failed(client.post(f"/v1/{route}", json=body), 422)
    try:
        assert kind.model_validate(body).not_served(None) == ["logit_bias"]
    except pydantic.ValidationError as error:
        assert error.error_count() <= 5


def test_answers_without_measure_are_refused():
    def wide():
        return keras.Sequential([keras.Input((6,)), keras.layers.Dense(50_000)])

    with TestClient(app_on(None, base=wide)) as client:
        ready(client)
        answer = predict(client, "base", [[1] * 6] * 40)
        failed(answer, 422, "2,000,000 numbers")
        assert predict(client, "base", [[1] * 6] * 2).status_code == 200


def test_rows_of_any_length_are_measured_by_their_own():
    def sequence():
        x = keras.Input((None,))
        return keras.Model(x, keras.ops.stack([x] * 1_000, axis=-1))

    with TestClient(app_on(None, base=sequence, max_axis=2_000)) as client:
        ready(client)
        failed(predict(client, "base", [[1] * 1_001]), 422, "1,001,000 numbers")


def per_token():
    """A base that gives three numbers a token."""
    base = keras.Sequential([keras.Input((None, 1)), keras.layers.Dense(3)])
    set_random(base.weights, 0)
    return base


def test_what_came_out_of_texts_is_measured():
    def words(texts):
        return np.ones((len(texts), int(texts[0]), 1))

    with TestClient(app_on(None, base=per_token, preprocessor=words)) as client:
        ready(client)
        failed(predict(client, "base", ["400000"]), 422, "1,200,000 numbers")
        assert predict(client, "base", ["2"]).status_code == 200


def test_what_came_out_of_a_head_on_each_token_is_measured(tmp_path):
    head = dense_head(256)
    make_task(
        per_token(),
        tmp_path / "t.safetensors",
        lora(),
        rows(2, 9, 1),
        head=head,
    )
    with TestClient(app_on(None, base=per_token)) as client:
        ready(client)
        client.app.state.service.engine.bank.load(
            "t", tmp_path / "t.safetensors"
        )
        failed(
            predict(client, "t", [[[1]] * 500] * 8), 422, "1,024,000 numbers"
        )
        few = predict(client, "t", [[[1]] * 2]).json()["data"]
        assert np.shape(few[0]["outputs"]) == (2, 256)


def test_a_row_of_any_length_is_bounded_before_it_runs(monkeypatch):
    def pairs():
        x = keras.Input((None, 1), name="x")
        y = keras.Input((None, 2), name="y")
        seen = [keras.layers.GlobalAveragePooling1D()(z) for z in (x, y)]
        return keras.Model({"x": x, "y": y}, keras.layers.Concatenate()(seen))

    def asked(client, long, other):
        inputs = {"x": [[[1]] * long], "y": [[[1, 2]] * other]}
        return predict(client, "base", inputs)

    app = app_on(None, base=pairs)
    with TestClient(app) as client:
        ready(client)
        assert asked(client, 512, 3).status_code == 200
        bank = app.state.service.engine.bank
        monkeypatch.setattr(bank, "predict", raising(AssertionError("it ran")))
        failed(asked(client, 513, 3), 422, "axis 1 of 'x'", "513", "512")
        failed(asked(client, 3, 6_000), 422, "axis 1 of 'y'", "6,000", "512")
    with TestClient(app_on(None, base=pairs, max_axis=5)) as client:
        ready(client)
        failed(asked(client, 6, 1), 422, "at most 5 is served")
        assert asked(client, 5, 1).status_code == 200


def test_a_row_that_gives_no_number_is_refused():
    def linear():
        dense = keras.layers.Dense(2, kernel_initializer="ones")
        return keras.Sequential([keras.Input((6,)), dense])

    with TestClient(app_on(None, base=linear)) as client:
        ready(client)
        failed(predict(client, "base", [[3e38] * 6]), 422, "finite")
        assert predict(client, "base", [[1] * 6]).status_code == 200


def test_a_body_that_is_too_large_is_not_read(client):
    huge = predict(client, "t0", [[1] * 6] * 50_000)
    failed(huge, 413, "100,000 bytes")
    # Without a length it is counted as it comes.
    pieces = (b" " * 1000 for _ in range(10_000))
    answer = client.post("/v1/predict", content=pieces)
    failed(answer, 413)
    assert predict(client, "t0", X.tolist()).status_code == 200


def test_all_bodies_together_are_bounded(folder):
    app = app_on(folder, limits=Limits(body=10_000, bodies=5_000))
    with TestClient(app) as client:
        ready(client)
        answer = client.post("/v1/predict", content=b" " * 6_000)
        failed(answer, 429)
        assert answer.headers["retry-after"]
        assert predict(client, "t0", X[:1].tolist()).status_code == 200


def test_no_such_route_or_method(client):
    failed(client.get("/v1/nothing"), 404)
    failed(client.get("/v1/predict"), 405)
    failed(client.get("/../../etc/passwd"), 404)


def test_a_token_is_asked_for_before_anything_else(locked):
    body = {"model": "t0", "inputs": X.tolist()}
    for headers in (
        {},
        {"authorization": TOKEN},
        {"authorization": "Bearer"},
        {"authorization": f"Bearer {TOKEN}x"},
        {"authorization": f"Bearer {TOKEN[:-1]}"},
        {"authorization": f"Basic {TOKEN}"},
        {"authorization": b"Bearer \xff\xfe"},
    ):
        answer = locked.post("/v1/predict", json=body, headers=headers)
        failed(answer, 401)
        assert answer.headers["www-authenticate"] == "Bearer"
        failed(locked.get("/v1/models", headers=headers), 401)
    answer = locked.post("/v1/predict", content=b" " * 200_000)
    failed(answer, 401)
    assert predict(locked, "t0", X.tolist(), headers=AUTH).status_code == 200
    assert locked.get("/health").status_code == 200
    assert locked.get("/metrics").status_code == 200


def test_loading_is_off_without_a_token(client):
    for route in ("load", "unload"):
        answer = client.post(
            f"/v1/{route}_lora_adapter", json={"lora_name": "t0"}
        )
        failed(answer, 403, "token")


def test_load_and_unload_by_name(locked, folder):
    def act(route, name, **more):
        return locked.post(
            f"/v1/{route}_lora_adapter",
            json={"lora_name": name, **more},
            headers=AUTH,
        )

    def asked(name):
        return predict(locked, name, X.tolist(), headers=AUTH).status_code

    assert act("unload", "t3").status_code == 200
    assert asked("t3") == 404
    failed(act("unload", "t3"), 404)
    for path in ("t3", "t3.safetensors", None):
        assert act("load", "t3", lora_path=path).status_code == 200
    assert asked("t3") == 200
    for path in ("/etc", "../t3", "t2.safetensors", "t3/", ""):
        failed(act("load", "t3", lora_path=path), 400)
    failed(act("load", "nobody"), 404)
    answer = act("load", "broken")
    failed(answer, 422)
    assert str(folder) not in answer.text and "keras_lora-" not in answer.text
    put(few_tasks()["t0"].path, folder / "late.safetensors")
    assert act("load", "late").status_code == 200
    assert asked("late") == 200
    (folder / "late.safetensors").unlink()


def test_a_full_queue_says_when_to_ask_again(folder, monkeypatch):
    app = app_on(folder, queue=2, max_batch=1)
    answers = []
    with TestClient(app) as client:
        ready(client)
        engine = app.state.service.engine

        def ask():
            answers.append(predict(client, "t0", X[:1].tolist()).status_code)

        threads = [threading.Thread(target=ask) for _ in range(3)]
        with blocked(engine, monkeypatch) as free:
            threads[0].start()
            wait_until(lambda: free.entered)
            for thread in threads[1:]:
                thread.start()
            wait_until(lambda: engine.waiting["predict"] == 2)
            answer = predict(client, "t0", X[:1].tolist())
        failed(answer, 429)
        assert answer.headers["retry-after"]
        for thread in threads:
            thread.join()
        assert answers == [200] * 3
        assert predict(client, "t0", X[:1].tolist()).status_code == 200


def test_503_until_the_engine_is_there_and_when_it_ends(folder):
    free = threading.Event()

    def slow():
        assert free.wait(60)
        return sequential()

    app = app_on(folder, base=slow)
    with TestClient(app) as client:
        assert client.get("/health").status_code == 503
        answer = predict(client, "t0", X.tolist())
        failed(answer, 503, "starting")
        assert answer.headers["retry-after"]
        failed(client.get("/v1/models"), 503)
        assert client.get("/metrics").status_code == 200
        free.set()
        ready(client)
        assert predict(client, "t0", X.tolist()).status_code == 200
        app.state.service.stop(10)
        failed(predict(client, "t0", X.tolist()), 503, "stopping")
        assert client.get("/health").json() == {"status": "stopping"}


def raising(error):
    def broken(*args):
        raise error

    return broken


def test_a_fault_of_the_server_tells_nothing(folder, monkeypatch, caplog):
    app = app_on(folder)
    with TestClient(app, raise_server_exceptions=False) as client:
        ready(client)
        engine = app.state.service.engine

        def told(error, status, *words):
            caplog.clear()
            monkeypatch.setattr(engine.bank, "predict", raising(error))
            answer = predict(client, "t0", X[:1].tolist())
            failed(answer, status, *words)
            assert "secret" not in answer.text

        path = "secret in /var/lib/secret/file"
        for error in (RuntimeError(path), TypeError(path), KeyError(path)):
            told(error, 500, "the server failed")
            assert path in caplog.text and "Traceback" in caplog.text
        told(MemoryError(path), 500, "memory")
        assert "MemoryError" in caplog.text
        told(ValueError(path), 422, "ValueError")
        assert path in caplog.text and "Traceback" not in caplog.text
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            error = tf.errors.InvalidArgumentError(None, None, path)
            told(error, 422, "InvalidArgumentError")

        monkeypatch.setattr(engine, "predict", raising(RuntimeError(path)))
        answer = predict(client, "t0", X[:1].tolist())
        failed(answer, 500, "the server failed")
        assert "secret" not in answer.text


@pytest.mark.parametrize(
    "path",
    ["/preset", "/a/b.safetensors", "C:\\a b\\c", "'/my files/a b'"],
)
def test_an_error_of_the_library_s_own_is_told_without_paths(
    folder, monkeypatch, caplog, path
):
    def ours(*args):
        raise_if("It was not done", [f"{path} is bad"])

    def quoting(*args):
        try:
            raise KeyError("secret")
        except KeyError as error:
            with_cause(error)

    app = app_on(folder)
    with TestClient(app, raise_server_exceptions=False) as client:
        ready(client)
        bank = app.state.service.engine.bank
        monkeypatch.setattr(bank, "predict", ours)
        answer = predict(client, "t0", X[:1].tolist())
        error = failed(answer, 422, "It was not done", "(a path)", " is bad")
        assert path.strip("'") not in error["message"]
        assert "bad" not in caplog.text
        monkeypatch.setattr(bank, "predict", quoting)
        answer = predict(client, "t0", X[:1].tolist())
        failed(answer, 422, "ValueError")
        assert "secret" not in answer.text


def with_cause(error):
    """Raises as the library does where it quotes another's error."""
    from keras_lora.bank.raw import prepared

    class Base:
        preprocessor = staticmethod(raising(error))

    prepared(Base(), ["x"], 1)


def test_figures_for_prometheus(client):
    before = figures(client)
    predict(client, ["t0", "t1"], X[:2].tolist())
    predict(client, "nobody", X[:2].tolist())
    after = figures(client)

    def more(name, **labels):
        key = name, tuple(sorted(labels.items()))
        return after.get(key, 0) - before.get(key, 0)

    requests = "keras_lora_requests_total"
    assert more(requests, route="/v1/predict", status="200") == 1
    assert more(requests, route="/v1/predict", status="404") == 1
    assert more("keras_lora_batch_rows_sum", kind="predict") == 2
    assert more("keras_lora_request_seconds_count", route="/v1/predict") == 2
    looked = more("keras_lora_slot_hits_total")
    assert looked + more("keras_lora_slot_misses_total") == 2
    assert after["keras_lora_adapters", (("state", "refused"),)] == 1
    assert ("keras_lora_waiting_rows", (("kind", "predict"),)) in after
    assert not [key for key in after if "nobody" in str(key)]


def figures(client):
    text = client.get("/metrics").text
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_interface_is_described_with_examples(client):
    found = client.get("/openapi.json").json()
    for route in ("predict", "completions", "load_lora_adapter"):
        assert f"/v1/{route}" in found["paths"]
    fields = found["components"]["schemas"]["Predict"]["properties"]
    assert fields["inputs"]["examples"] and fields["model"]["examples"]
    assert client.get("/docs").status_code == 200


def test_a_base_without_a_tongue(client):
    answer = client.post("/v1/completions", json={"model": "t0", "prompt": "a"})
    failed(answer, 422, "no language model")


@pytest.fixture(autouse=True)
def quiet():
    logging.getLogger("httpx").setLevel(logging.WARNING)
