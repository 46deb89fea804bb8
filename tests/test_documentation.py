"""The README and the site say what runs."""

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import pytest

from app.images import data
from keras_lora.methods import METHODS
from tests.app.fashion import write_fashion
from tests.models import hub

ROOT = Path(__file__).parents[1]
PAGES = {
    str(page.relative_to(ROOT)): page
    for page in (ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")))
}
REAL_BASE = {
    "docs/how-to/images.md",
    "docs/how-to/language-models.md",
    "docs/tutorial.md",
}
NEEDS_KERAS_HUB = {
    "README.md",
    "docs/comparison.md",
    "docs/how-to/peft.md",
    "docs/how-to/presets.md",
    "docs/how-to/your-own-model.md",
}
MOST_STEPS = {
    "docs/how-to/images.md": 3,
    "docs/how-to/language-models.md": 15,
    "docs/tutorial.md": 15,
}
"""Pages that train for minutes; a test stops each `fit` after some steps."""
EXTRA = {"docs/how-to/language-models.md"}
NOT_RUN = (
    "apt install ",
    "curl ",
    "keras-lora serve ",
    "pip install ",
    "pip wheel ",
    "python3 -m venv ",
    "python -m app.",
    "streamlit run ",
)
"""Starts of commands that install, train or serve; CI runs the README's."""


BLOCK = re.compile(
    r"(?:^<!-- (file: [\w.]+|new process|preset: \w+) -->\n)?"
    r"^```(\w+)(?: title=\"([\w.]+)\")?\n(.*?)^```",
    re.M | re.S,
)
"""A block of code, and what is to be done with it where a comment says so; a
block with a title is a file of that name."""


def marked_blocks(page):
    """The code of a page, as (mark, language, text), in order."""
    return [
        (f"file: {title}" if title else mark, language, text)
        for mark, language, title, text in BLOCK.findall(page.read_text())
    ]


def blocks(page):
    """The code of a page, as (language, text), in order."""
    return [block[1:] for block in marked_blocks(page)]


def run_program(text, folder):
    """Runs a block as a program of its own, in a new process."""
    done = subprocess.run(
        [sys.executable, "-c", text],
        cwd=folder,
        env={
            **os.environ,
            "KERAS_BACKEND": keras.backend.backend(),
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)]),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def run_command(line, folder):
    """Runs one line of a shell example; the command is this environment's."""
    command, *arguments = line.split()
    commands = {"keras-lora": ["-m", "keras_lora.cli"], "python": []}
    assert command in commands, f"no test runs {line!r}"
    done = subprocess.run(
        [sys.executable, *commands[command], *arguments],
        cwd=folder,
        env={
            **os.environ,
            "KERAS_BACKEND": keras.backend.backend(),
            "PYTHONPATH": str(ROOT),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def run_page(name, folder):
    """Runs all of a page's examples; each goes on from those before."""
    scope: dict[str, object] = {"__name__": "example"}
    for mark, language, text in marked_blocks(PAGES[name]):
        if mark.startswith("file: "):
            (folder / mark.removeprefix("file: ")).write_text(text)
        elif mark == "new process":
            run_program(text, folder)
        elif mark.startswith("preset: "):
            made = small_preset(mark.removeprefix("preset: "), folder)
            text = re.sub('preset = ".*"', f"preset = {str(made)!r}", text)
            exec(compile(text, name, "exec"), scope)
        elif language == "python":
            exec(compile(text, name, "exec"), scope)
        elif language == "sh":
            for line in text.strip().splitlines():
                if not line.startswith(NOT_RUN):
                    run_command(line, folder)
        else:
            assert language == "text", f"{name}: a block of {language}"


def small_preset(kind, folder):
    """A small model in the place of a preset that is fetched."""
    models, words = hub().models, ["a", "good", "bad", "film"]
    sizes = {
        "num_layers": 1,
        "num_heads": 2,
        "hidden_dim": 8,
        "intermediate_dim": 16,
        "max_sequence_length": 32,
    }
    if kind == "bert":
        marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        tokenizer = models.BertTokenizer(vocabulary=marks + words)
        task = models.BertTextClassifier(
            models.BertBackbone(len(marks + words), **sizes),
            num_classes=2,
            preprocessor=models.BertTextClassifierPreprocessor(
                tokenizer, sequence_length=8
            ),
        )
    else:
        letters = ["<|endoftext|>", "!", *"abdfgilmo", "\u0120", "oo"]
        tokenizer = models.GPT2Tokenizer(
            {letter: number for number, letter in enumerate(letters)}, ["o o"]
        )
        task = models.GPT2CausalLM(
            backbone=models.GPT2Backbone(len(letters), **sizes),
            preprocessor=models.GPT2CausalLMPreprocessor(
                tokenizer, sequence_length=32
            ),
        )
    task.save_to_preset(str(folder / f"{kind}-preset"))
    return folder / f"{kind}-preset"


@contextlib.contextmanager
def in_folder(path):
    """A page's own folder; what the page replaces is for no other test."""
    known = dict(METHODS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        patch.syspath_prepend(path)
        patch.setattr(
            keras.backend, "clear_session", keras.backend.clear_session
        )
        yield path
    METHODS.clear()
    METHODS.update(known)
    sys.modules.pop("lora_fa", None)


@pytest.fixture
def folder(tmp_path):
    with in_folder(tmp_path) as path:
        yield path


class Stop(keras.callbacks.Callback):
    """Ends `fit` after some steps."""

    def __init__(self, steps):
        super().__init__()
        self.steps = steps

    def on_train_batch_end(self, batch, logs=None):
        self.model.stop_training = batch + 1 >= self.steps


@pytest.fixture
def few_steps(name, monkeypatch):
    """Lets no `fit` of a page of `MOST_STEPS` go on for longer."""
    fit = keras.Model.fit
    if name in MOST_STEPS:
        monkeypatch.setattr(
            keras.Model,
            "fit",
            lambda *args, **options: fit(
                *args, callbacks=[Stop(MOST_STEPS[name])], **options
            ),
        )


@pytest.fixture
def fashion(name, tmp_path_factory, monkeypatch):
    """Small files in the place of Debian's package, where that is missing."""
    if name == "docs/how-to/images.md" and not data.FOLDER.is_dir():
        folder = write_fashion(tmp_path_factory.mktemp("fashion"), 3000)
        monkeypatch.setattr(data, "FOLDER", folder)


def marks_of(name):
    """The README's example runs in every run; the other pages take longer."""
    if name in REAL_BASE:
        marks = [pytest.mark.real_base]
    else:
        marks = [] if name == "README.md" else [pytest.mark.slow]
    return [*marks, pytest.mark.extra] if name in EXTRA else marks


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=marks_of(name))
        for name, page in PAGES.items()
        if any(language in ("python", "sh") for language, _ in blocks(page))
    ],
)
def test_examples_run(name, folder, few_steps, fashion):
    if name in NEEDS_KERAS_HUB | REAL_BASE:
        hub()
    run_page(name, folder)


def test_every_page_is_in_the_navigation():
    listed = re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text())
    pages = [name.removeprefix("docs/") for name in PAGES if "docs/" in name]
    assert sorted(listed) == sorted(pages)
