"""The documentation inside the demo."""

import re
from xml.etree import ElementTree

from app.views import docs


def test_every_page_that_is_listed_is_there_and_has_a_heading():
    found = docs.pages()
    assert len(found) == len(docs.SHOWN)
    assert all(title and not title.startswith("#") for title in found)


def test_a_page_holds_no_link_that_leads_nowhere():
    for path in docs.pages().values():
        text = docs.text_of(path)
        assert not re.search(r"\]\([^)]*\.md", text)
        assert "--8<--" not in text


def test_drawings_stand_alone():
    for name in ("lora", "bottleneck", "bank"):
        svg = ElementTree.fromstring(docs.drawing(name))
        assert svg.tag == "{http://www.w3.org/2000/svg}svg"
        assert "currentColor" not in docs.drawing(name)
