"""The site's search finds the page that a visitor looks for."""

import html
import json
import math
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("material")
pytest.importorskip("mkdocstrings")

ROOT = Path(__file__).parents[1]
FIRST = {
    "LLM": {"how-to/language-models"},
    "Gemma": {"how-to/language-models", "how-to/presets"},
    "image": {"how-to/images"},
    "learning rate": {"how-to/hyper-parameters"},
    "CSV": {"how-to/demo"},
}
"""What is typed into the search field, and the pages that may come first."""
K1 = 1.2
"""How soon a word that comes again in a text counts no more."""

pytestmark = pytest.mark.slow


class Search:
    """Scores texts as the theme's search does, by lunr's formula.

    Args:
        index: The site's `search_index.json`.
    """

    def __init__(self, index):
        self.fields = {
            name: field["boost"]
            for name, field in index["config"]["fields"].items()
        }
        self.separator = re.compile(index["config"]["separator"])
        self.docs = index["docs"]
        self.counts = [
            {name: self.words(doc.get(name, "")) for name in self.fields}
            for doc in self.docs
        ]
        self.places = Counter(
            word
            for counts in self.counts
            for words in counts.values()
            for word in words
        )

    def words(self, text):
        """How often each word comes in a text or in a list of tags."""
        text = " ".join(text) if isinstance(text, list) else text
        plain = html.unescape(re.sub(r"<[^>]*>", " ", text)).lower()
        return Counter(filter(None, self.separator.split(plain)))

    def weight(self, word, count):
        """A word's weight in a text that has it so often."""
        places = self.places[word]
        rest = (len(self.docs) - places + 0.5) / (places + 0.5)
        return math.log(1 + abs(rest)) * (K1 + 1) * count / (K1 + count)

    def pages(self, query):
        """The addresses of pages, best first."""
        asked = list(self.words(query))
        meant = [w for w in self.places if w.startswith(tuple(asked))]
        scores = {}
        for doc, counts in zip(self.docs, self.counts, strict=True):
            found = [
                (word, self.weight(word, counts[name][word]) * boost)
                for name, boost in self.fields.items()
                for word in meant
                if word in counts[name]
            ]
            if not found:
                continue
            page, _, section = doc["location"].partition("#")
            parts = sum(
                any(word.startswith(term) for word, _ in found)
                for term in asked
            )
            share = (not section) + parts / len(asked)
            score = sum(weight for _, weight in found) / math.sqrt(len(meant))
            score *= doc.get("boost", 1) * (1 + share**2)
            scores[page] = max(score, scores.get(page, 0.0))
        return sorted(scores, key=scores.__getitem__, reverse=True)


@pytest.fixture(scope="module")
def search(tmp_path_factory):
    site = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "-q", "-d", str(site)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    text = (site / "search/search_index.json").read_text("utf-8")
    return Search(json.loads(text))


@pytest.mark.parametrize("query", FIRST)
def test_the_page_looked_for_comes_first(search, query):
    if not any((ROOT / f"docs/{page}.md").exists() for page in FIRST[query]):
        pytest.skip("there is no such page")
    assert search.pages(query)[0].strip("/") in FIRST[query]


def test_a_word_that_no_page_has_finds_none(search):
    assert search.pages("xylophone") == []
