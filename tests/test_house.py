"""The folders of library and app: imports run one way, with no circle."""

import ast
from pathlib import Path

import pytest

import keras_lora

HOUSE = Path(keras_lora.__file__).parent
APP = HOUSE.parent / "app"
ROOMS = {
    "keras_lora": (
        "version",
        "errors",
        "settings",
        "model",
        "targets",
        "methods",
        "rewrite",
        "files",
        "split",
        "peft",
        "bank",
        "serve",
        "__init__",
        "cli",
    ),
    "app": (
        "__init__",
        "texts",
        "images",
        "learn",
        "serve",
        "views",
        "app_pages",
        "ship",
        "train",
        "predict",
        "streamlit_app",
    ),
}
"""Lowest first: each imports only from those before it."""
FILES = sorted([*HOUSE.rglob("*.py"), *APP.rglob("*.py")])


def name_of(file: Path) -> str:
    parts = file.relative_to(HOUSE.parent).with_suffix("").parts
    return ".".join(parts)


def package_of(name: str) -> str:
    return name.removesuffix(".__init__")


def room_of(name: str) -> str:
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


MODULES = {package_of(name_of(file)) for file in FILES}


def imports_of(file: Path) -> set[str]:
    """The library's modules that a file imports, inside of functions too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: a relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in MODULES else node.module)
    mine = name_of(file).split(".")[0]
    return {name for name in found if name.split(".")[0] == mine}


GRAPH = {package_of(name_of(file)): imports_of(file) for file in FILES}


def test_the_house_has_these_rooms_and_no_other():
    rooms = {
        path.stem
        for path in HOUSE.iterdir()
        if path.suffix == ".py"
        or (path.is_dir() and path.name != "__pycache__")
    }
    assert rooms == set(ROOMS["keras_lora"])


def test_the_check_sees_imports():
    assert "keras_lora.model.surgery" in GRAPH["keras_lora.rewrite.member"]
    assert sum(map(len, GRAPH.values())) > 150


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_a_file_imports_only_from_the_rooms_below(file):
    name = name_of(file)
    rooms = ROOMS[name.split(".")[0]]
    mine = rooms.index(room_of(name))
    assert not {
        other
        for other in imports_of(file)
        if rooms.index(room_of(other)) > mine
    }


def test_no_file_is_in_a_circle_of_imports():
    left = {name: set(found) & MODULES for name, found in GRAPH.items()}
    for name, found in left.items():
        found.discard(name)
    while free := [name for name, found in left.items() if not found]:
        for name in free:
            del left[name]
        for found in left.values():
            found.difference_update(free)
    assert not left
