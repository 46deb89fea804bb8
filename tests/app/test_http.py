"""The demo's tasks behind `keras-lora serve`."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import keras_lora
from app.learn.shipped import SHIPPED
from app.serve import http
from app.texts.tasks import get_task
from keras_lora.serve import Engine
from tests.app.tiny import TinyTokenizer, tiny_base
from tests.serve.served import Server, wait_until

ROOT = Path(__file__).parents[2]
TEXTS = ["a slow start and then a wonderful film", "no"]


def test_the_folder_of_the_demo_holds_adapters_with_labels_alone():
    found = sorted((ROOT / "app" / "adapters").glob("*.safetensors"))
    assert [path.stem for path in found] == sorted(SHIPPED)
    for path in found:
        info = keras_lora.inspect_adapter(path)
        assert info.labels == get_task(path.stem).labels
        assert info.about == get_task(path.stem).title


def test_every_task_answers_as_the_demo_does(tiny_service, tiny_folder):
    encode = TinyTokenizer().encode
    bank = keras_lora.AdapterBank(tiny_base(), rank=4, targets="all-linear")
    with Engine(
        bank,
        folder=tiny_folder,
        preprocessor=lambda texts: http.inputs_of(encode(texts)),
        poll=0.05,
    ) as engine:
        wait_until(lambda: set(engine.models) == set(SHIPPED))
        states = {s.state for s in engine.folder.status.values()}
        assert states == {"served"}
        for served in tiny_service.shipped.tasks:
            futures = engine.predict(TEXTS, served.name)
            for text, future in zip(TEXTS, futures, strict=True):
                got = served.probabilities(future.result(60).outputs)
                want = tiny_service.answer(served, text).probabilities
                np.testing.assert_allclose(got, want, atol=1e-5)
    bank.detach()


@pytest.mark.real_base
def test_the_documented_commands_answer_as_app_predict_does(tmp_path):
    page = (ROOT / "docs" / "how-to" / "serve.md").read_text()
    [serve, curl] = re.findall(
        r"^keras-lora serve (app\..*)\n(curl .*)$", page, re.M
    )[0]
    body, address = re.fullmatch(r"curl --json '(.*)' (\S+)", curl).groups()
    server = Server(tmp_path / "log", *serve.split())
    try:
        wait_until(server.is_ready, 200)
        wait_until(
            lambda: "tweet-sentiment is served" in server.log.read_text()
        )
        address = address.replace("localhost:8000", server.url)
        done = subprocess.run(
            ["curl", "-s", "--json", body, address], capture_output=True
        )
        assert done.returncode == 0
        data = json.loads(done.stdout)["data"]
    finally:
        server.end()
    asked = json.loads(body)
    assert [one["model"] for one in data] == asked["model"]
    for one, text in zip(data, asked["inputs"], strict=True):
        path = ROOT / "app" / "adapters" / f"{one['model']}.safetensors"
        want = json.loads(
            subprocess.run(
                [sys.executable, "-m", "app.predict", one["model"], text]
                + ["--adapter", str(path), "--json"],
                capture_output=True,
                cwd=ROOT,
                check=True,
            ).stdout
        )
        assert one["label"] == want["label"]
        for label, share in want["probabilities"].items():
            assert abs(one["probabilities"][label] - share) < 1e-4
