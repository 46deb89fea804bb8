"""A method of one's own, from the how-to's own text, on every path."""

import keras
import numpy as np
import pytest

import keras_lora
from keras_lora.methods import METHODS, Method
from keras_lora.methods.lora import rank_and_alpha
from tests.helpers import fill, normal, numpy_of
from tests.test_documentation import (
    PAGES,
    in_folder,
    marked_blocks,
    run_page,
    run_program,
)

PAGE = "docs/how-to/own-method.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where all of the page has run; its method is known here still."""
    with in_folder(tmp_path_factory.mktemp("own")) as folder:
        run_page(PAGE, folder)
        yield folder


def test_it_goes_through_save_a_new_process_load_and_a_bank(folder):
    marks = [mark for mark, _, _ in marked_blocks(PAGES[PAGE])]
    assert marks == ["file: lora_fa.py", "", "new process"]
    info = keras_lora.inspect_adapter(folder / "task.safetensors")
    assert info.methods == ("lora-fa",)


@pytest.mark.slow
def test_a_process_that_does_not_know_it_refuses_its_file(folder):
    run_program(
        "import keras_lora\n"
        "try:\n"
        "    keras_lora.inspect_adapter('task.safetensors')\n"
        "except ValueError as error:\n"
        "    assert 'unknown method' in str(error)\n"
        "else:\n"
        "    raise AssertionError('it was read')\n",
        folder,
    )


def test_one_that_says_not_how_its_file_is_checked_is_not_saved(
    folder, monkeypatch
):
    """Nothing could load the file: a silent loss of what was trained."""
    from lora_fa import FixedAConfig, fixed_a_class

    name = FixedAConfig().method
    method = Method(name, FixedAConfig, fixed_a_class, rank_and_alpha)
    monkeypatch.setitem(METHODS, name, method)
    base = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])
    keras_lora.inject(base, FixedAConfig(rank=2))
    fill(base)
    adapted = numpy_of(base(normal(2, 6)))
    with pytest.raises(ValueError, match="unknown method"):
        keras_lora.save_adapter(base, folder / "lost.safetensors")
    assert not (folder / "lost.safetensors").exists()
    np.testing.assert_array_equal(numpy_of(base(normal(2, 6))), adapted)


def test_one_that_no_bank_serves_is_refused_by_a_bank(folder, monkeypatch):
    from lora_fa import FixedAConfig, fixed_a_class

    from keras_lora.methods.lora import LORA

    name = FixedAConfig().method
    method = Method(
        name, FixedAConfig, fixed_a_class, rank_and_alpha, check=LORA.check
    )
    monkeypatch.setitem(METHODS, name, method)
    base = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])
    keras_lora.inject(base, FixedAConfig(rank=2))
    keras_lora.save_adapter(base, folder / "own.safetensors")
    keras_lora.eject(base)
    bank = keras_lora.AdapterBank(base)
    with pytest.raises(ValueError, match="no bank serves the method"):
        bank.load("own", folder / "own.safetensors")


def test_a_config_whose_method_is_in_no_table_is_refused():
    class Unknown(keras_lora.IA3Config):
        method = "unknown"

    base = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])
    with pytest.raises(ValueError, match="`config` must be a LoRAConfig"):
        keras_lora.inject(base, Unknown(targets="all-linear"))
