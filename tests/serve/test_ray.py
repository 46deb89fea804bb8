"""`keras-lora serve --ray`: two replicas on one machine, one folder."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from types import SimpleNamespace

import keras
import numpy as np
import psutil
import pytest

from tests.banks import few_tasks, rows
from tests.serve.served import Server, copy_tasks, free_port, put, wait_until
from tests.test_documentation import PAGES, ROOT, blocks

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None, reason="Ray is not installed"
    ),
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="one backend is enough"
    ),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    work = tmp_path_factory.mktemp("ray")
    return copy_tasks(work / "adapters", "t0", "t1")


@pytest.fixture(scope="module")
def server(folder):
    server = Server(
        folder.parent / "log",
        "tests.serve.bases:alone",
        "--adapters",
        str(folder),
        *("--poll", "0.2", "--rank", "3"),
        *("--ray", "--replicas", "2", "--cpus", "0.5"),
        PYTHONPATH=str(ROOT),
    )
    try:
        wait_until(server.is_ready, 180)
        yield server
    finally:
        if server.process.poll() is None:
            server.process.send_signal(signal.SIGTERM)
            try:
                server.process.wait(60)
            finally:
                server.end()


def asked(server, name):
    """A row's outputs, or the status of a refusal; retried on a break."""
    body = json.dumps({"model": name, "inputs": rows(1).tolist()}).encode()
    request = urllib.request.Request(
        server.url + "/v1/predict",
        body,
        {"content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as found:
            return np.array(json.load(found)["data"][0]["outputs"])
    except urllib.error.HTTPError as error:
        return error.code


def replicas():
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if "ray::ServeReplica:keras_lora"
        in " ".join(process.info["cmdline"] or [])
    ]


def answers(server, name, count=20):
    """Several answers about one row, so that both replicas give some.

    Ray deals them out by chance: one of two would give all once in a million.
    """
    return [asked(server, name) for _ in range(count)]


def right(found, name):
    """Whether all are what the adapter answers alone."""
    expected = few_tasks()[name].row(0)
    return all(
        not isinstance(one, int) and np.abs(one - expected).max() < 1e-4
        for one in found
    )


def test_each_replica_answers_for_each_adapter(server):
    assert len(replicas()) == 2
    for name in ("t0", "t1"):
        assert right(answers(server, name), name)
    assert np.abs(few_tasks()["t0"].row(0) - few_tasks()["t1"].row(0)).max() > (
        1e-2
    )
    assert asked(server, "t2") == 404


def test_all_replicas_follow_the_folder(server, folder):
    put(few_tasks()["t2"].path, folder / "t2.safetensors")
    wait_until(lambda: right(answers(server, "t2"), "t2"), 5)
    put(few_tasks()["t3"].path, folder / "t2.safetensors")
    expected = few_tasks()["t3"].row(0)
    wait_until(
        lambda: all(
            np.abs(one - expected).max() < 1e-4 for one in answers(server, "t2")
        ),
        5,
    )
    (folder / "t2.safetensors").unlink()
    wait_until(lambda: set(map(str, answers(server, "t2"))) == {"404"}, 5)


def test_nobody_loads_into_one_replica_alone(server):
    request = urllib.request.Request(
        server.url + "/v1/load_lora_adapter",
        b'{"lora_name": "t0"}',
        {"content-type": "application/json"},
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=30)
    assert refused.value.code == 403


def test_a_killed_replica_loses_only_what_it_was_answering(server):
    before = replicas()
    before[0].kill()
    found = answers(server, "t0", 40)
    lost = [one for one in found if isinstance(one, int)]
    assert len(lost) <= 2 and set(lost) <= {500, 503}, lost
    assert right([one for one in found if not isinstance(one, int)], "t0")
    wait_until(lambda: len(replicas()) == 2, 90)
    wait_until(lambda: right(answers(server, "t1"), "t1"), 60)


def test_a_signal_ends_it(server):
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(60) == 0
    assert not replicas()


def test_the_cluster_file_of_the_page_is_served(folder, tmp_path):
    text = next(
        text
        for _, text in blocks(PAGES["docs/how-to/serve.md"])
        if "import_path" in text
    )
    port = free_port()
    for written, here in {
        "0.0.0.0": "127.0.0.1",
        "port: 8000": f"port: {port}",
        "/models/preset": "tests.serve.bases:alone",
        "/shared/adapters": str(folder),
        "gpus: 1": "cpus: 0.5",
    }.items():
        assert written in text
        text = text.replace(written, here)
    (tmp_path / "serve.yaml").write_text(text)
    with open(tmp_path / "log", "wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "ray.serve.scripts", "run", "serve.yaml"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=out,
            stderr=out,
        )
    served = SimpleNamespace(url=f"http://127.0.0.1:{port}")
    try:
        wait_until(lambda: is_there(served, process, tmp_path / "log"), 180)
        assert right(answers(served, "t0"), "t0")
        assert right(answers(served, "t1"), "t1")
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        finally:
            process.kill()


def is_there(served, process, log):
    """Whether a server answers; it has to be alive."""
    assert process.poll() is None, log.read_text()
    try:
        return not isinstance(asked(served, "t0"), int)
    except urllib.error.URLError:
        return False


def test_the_builder_of_a_cluster_file_names_what_is_wrong():
    command = (
        "import keras_lora.serve.ray as r\n"
        "good = {'base': 'b', 'adapters': 'a', 'rank': None}\n"
        "for more in ({'no_such': 1, 'token': 'secret', 'port': 1}, {}):\n"
        "    try:\n"
        "        r.app({'base': 'b'} | more)\n"
        "    except ValueError as error:\n"
        "        print(error)\n"
        "print(type(r.app(good)).__name__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", command],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    for words in (
        "no_such: no option",
        "token: no option",
        "port: the cluster's file says it elsewhere",
        "required: --adapters",
    ):
        assert words in done.stdout
    assert "secret" not in done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "Application", done.stderr
