"""Torch files read without torch: what is right, and what is refused."""

import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from app.images.torch_file import MAGIC, VERSION, TorchFileError, read_tensors


def value(thing) -> bytes:
    """The opcodes that push a plain value."""
    return pickle.dumps(thing, 2)[2:-1]


def tensor(
    shape, strides, *, offset=0, size=6, key="0", kind="torch\nFloatStorage"
) -> bytes:
    """The opcodes that push a tensor, as torch writes them."""
    storage = b"(" + value("storage") + f"c{kind}\n".encode() + value(key)
    storage += value("cpu") + value(size) + b"NtQ"
    rest = value(offset) + value(shape) + value(strides) + value(False)
    hooks = b"ccollections\nOrderedDict\n)R"
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + rest + hooks + b"tR"
    )


def torch_file(
    path: Path,
    *tensors: bytes,
    keys=("0",),
    numbers=tuple(range(6)),
    after=b"",
    body: bytes | None = None,
    size: int | None = None,
    head=(MAGIC, VERSION, {"little_endian": True}),
) -> Path:
    """A file of torch's old format, with its tensors called a, b, ..."""
    named = b"".join(
        value(chr(ord("a") + n)) + ops for n, ops in enumerate(tensors)
    )
    parts = [pickle.dumps(part, 2) for part in head]
    parts += [body or b"\x80\x02}(" + named + b"u.", pickle.dumps([*keys], 2)]
    for _ in keys:
        count = len(numbers) if size is None else size
        parts += [struct.pack("<q", count), np.float32(numbers).tobytes()]
    path.write_bytes(b"".join(parts) + after)
    return path


def test_tensors_are_read_in_any_order_of_their_axes(tmp_path):
    file = torch_file(
        tmp_path / "a.pth",
        tensor((2, 3), (3, 1)),
        tensor((3, 2), (1, 3)),
        tensor((), (), offset=4),
    )
    found = read_tensors(file)
    np.testing.assert_array_equal(found["a"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(found["b"], found["a"].T)
    assert found["c"] == 4 and found["c"].dtype == "float32"
    found["a"][:] = 9
    assert found["b"].max() == 5


def test_a_file_by_torch_is_read_as_torch_reads_it(tmp_path):
    torch = pytest.importorskip("torch")
    tensors = {
        "kernel": torch.randn(4, 3, 2, 5).permute(2, 0, 3, 1),
        "count": torch.tensor(7),
        "half": torch.randn(3, dtype=torch.float16),
    }
    path = tmp_path / "a.pth"
    torch.save(tensors, path, _use_new_zipfile_serialization=False)
    found = read_tensors(path)
    assert set(found) == set(tensors)
    for name, own in tensors.items():
        np.testing.assert_array_equal(found[name], own.numpy(), strict=True)


SIX = tensor((6,), (1,))
ASKING = {
    "os.system": b"cos\nsystem\n" + value(("true",)) + b"R",
    "builtins.eval": b"cbuiltins\neval\n" + value(("1",)) + b"R",
    "torch.load": b"ctorch\nload\n",
    "torch._utils._rebuild_parameter": b"ctorch._utils\n_rebuild_parameter\n",
    "collections.Counter": b"ccollections\nCounter\n)R",
}


@pytest.mark.parametrize("name", ASKING)
def test_a_pickle_that_names_anything_else_is_refused(tmp_path, name):
    bad = b"\x80\x02}(" + value("a") + ASKING[name] + b"u."
    with pytest.raises(TorchFileError, match=name):
        read_tensors(torch_file(tmp_path / "a.pth", body=bad))


@pytest.mark.parametrize("part", range(3))
def test_a_pickle_before_the_tensors_is_plain(tmp_path, part):
    path = torch_file(tmp_path / "a.pth", tensor((6,), (1,)))
    before = [pickle.dumps(x, 2) for x in (MAGIC, VERSION)][:part]
    path.write_bytes(
        b"".join(before) + b"\x80\x02" + ASKING["os.system"] + b"."
    )
    with pytest.raises(TorchFileError, match="os.system"):
        read_tensors(path)


STEPS = {
    "STACK_GLOBAL": value("os") + value("system") + b"\x93",
    "INST": b"(ios\nsystem\n",
    "OBJ": b"(o",
    "NEWOBJ": b"ccollections\nOrderedDict\n)\x81",
    "EXT1": b"\x82\x01",
    "PERSID": b"P0\n",
    "BINBYTES": b"B\x00\x00\x00\x00",
}


@pytest.mark.parametrize("step", STEPS)
def test_a_step_that_tensors_do_not_need_is_refused(tmp_path, step):
    body = b"\x80\x02}(" + value("a") + STEPS[step] + b"u."
    with pytest.raises(TorchFileError, match=f"takes the step {step}"):
        read_tensors(torch_file(tmp_path / "a.pth", body=body))


HOSTILE = {
    "a call of a text": value("a") + b")R",
    "a call of a storage": b"ctorch\nFloatStorage\n)R",
    "a call with other arguments": b"ccollections\nOrderedDict\n"
    + value((1,))
    + b"R",
    "a value that was not kept": b"h\x07",
    "more than there is": b"\x87",
    "a mark that is missing": b"t",
    "a list in a text": value("a") + value("b") + b"a",
    "a tuple as a key": b"}" + value(()) + value(1) + b"s",
    "a text that is not there": b"X\xff\xff\xff\x7f",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_pickle_that_makes_no_sense_is_refused(tmp_path, kind):
    body = b"\x80\x02}(" + value("a") + HOSTILE[kind] + b"u."
    with pytest.raises(TorchFileError, match="pickle"):
        read_tensors(torch_file(tmp_path / "a.pth", body=body))


def test_a_place_far_away_in_the_memo_takes_no_memory(tmp_path):
    far = SIX + b"r\xff\xff\xff\xff"
    assert read_tensors(torch_file(tmp_path / "a.pth", far))["a"].sum() == 15


def test_attributes_of_the_dict_of_tensors_are_left_out(tmp_path):
    body = b"\x80\x02ccollections\nOrderedDict\n)R(" + value("a") + SIX
    body += b"u}" + value("_metadata") + value({"v": 1}) + b"sb."
    found = read_tensors(torch_file(tmp_path / "a.pth", body=body))
    assert list(found) == ["a"]


WRONG = {
    "outside": ([tensor((2, 3), (3, 1), offset=1)], {}, "outside"),
    "far": ([tensor((2,), (6,))], {}, "outside"),
    "larger than its storage": ([tensor((1000, 1000), (0, 0))], {}, "outside"),
    "negative": ([tensor((2,), (-1,), offset=3)], {}, "no known shape"),
    "not whole": ([tensor((True,), (1,))], {}, "no known shape"),
    "strides missing": ([tensor((2, 3), (1,))], {}, "strides"),
    "unknown numbers": (
        [tensor((6,), (1,), kind="torch\nQInt8Storage")],
        {},
        "torch.QInt8Storage",
    ),
    "another storage": ([SIX], {"keys": ["1"]}, "not those of its tensors"),
    "keys are no texts": ([SIX], {"keys": [0]}, "not those of its tensors"),
    "a key in two sizes": (
        [SIX, tensor((1,), (1,), size=1)],
        {},
        "have one key",
    ),
    "size": ([SIX], {"size": 7}, "another size"),
    "cut": ([SIX], {"numbers": range(5), "size": 6}, "cut short"),
    "more": ([SIX], {"after": b"!"}, "after its last"),
    "magic": ([SIX], {"head": (1, VERSION, {})}, "no torch file"),
    "version": ([SIX], {"head": (MAGIC, 2, {})}, "no torch file"),
    "big-endian": (
        [SIX],
        {"head": (MAGIC, VERSION, {"little_endian": False})},
        "not little-endian",
    ),
    "no tensors": ([value(1)], {}, "other things than tensors"),
    "no names": (
        [],
        {"body": b"\x80\x02}" + value(1) + SIX + b"s."},
        "a key that is no text",
    ),
    "a list": ([], {"body": b"\x80\x02]."}, "other things than tensors"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_torch_file_that_is_not_whole_is_refused(tmp_path, kind):
    tensors, changes, words = WRONG[kind]
    path = torch_file(tmp_path / "a.pth", *tensors, **changes)
    with pytest.raises(TorchFileError, match=words) as caught:
        read_tensors(path)
    assert "a.pth was not read" in str(caught.value)


def test_a_torch_file_cut_anywhere_is_refused(tmp_path):
    path = torch_file(tmp_path / "a.pth", SIX)
    whole = path.read_bytes()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(TorchFileError):
            read_tensors(path)


def test_a_torch_file_with_changed_bytes_is_read_or_refused(tmp_path):
    path = torch_file(tmp_path / "a.pth", SIX, tensor((3, 2), (1, 3)))
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    outcomes = set()
    for _ in range(2000):
        changed = bytearray(whole)
        for at in rng.integers(0, len(whole), rng.integers(1, 4)):
            changed[at] = rng.integers(0, 256)
        path.write_bytes(changed)
        try:
            found = read_tensors(path)
            outcomes.add(sum(array.nbytes for array in found.values()) < 200)
        except TorchFileError:
            outcomes.add("refused")
    assert outcomes == {True, "refused"}
