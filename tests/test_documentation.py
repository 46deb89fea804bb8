"""The README and the site say what runs."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def python_examples(page):
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S)


@pytest.mark.parametrize("name", ["README.md", "docs/index.md"])
def test_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    examples = python_examples(ROOT / name)
    assert examples
    scope: dict[str, object] = {}
    for example in examples:  # each goes on from the one before
        exec(compile(example, name, "exec"), scope)


def test_readme_and_first_page_show_the_same_example():
    readme, first_page = ROOT / "README.md", ROOT / "docs/index.md"
    assert python_examples(readme) == python_examples(first_page)
