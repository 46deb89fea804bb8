"""Hostile adapter files: good ones, changed as an attacker or a disk would.

`KINDS` names the ways; each takes a seeded `random.Random` and a good file's
bytes, and gives other bytes. Nothing here loads anything.
"""

import json
import re
import struct

import numpy as np

from benchmarks.odd_parts import (
    CLASSES,
    DTYPES,
    NUMBERS,
    PLAIN,
    SETTINGS,
    TEXTS,
    any_value,
    dumps,
    joined,
    parts,
    rebuilt,
    spoil,
    tensors_of,
)


def bytes_anywhere(chance, data):
    """A few bytes are others."""
    found = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 4, 16, 256])):
        found[chance.randrange(len(found))] = chance.randrange(256)
    return bytes(found)


def bytes_in_header(chance, data):
    """A few bytes of the header's text are others, mostly JSON's own."""
    (size,) = struct.unpack("<Q", data[:8])
    found = bytearray(data)
    for _ in range(chance.choice([1, 1, 1, 2, 4])):
        byte = chance.choice(b'{}[]",:0123456789-eE\\ntrufals/@ \x00\xff')
        found[8 + chance.randrange(size)] = byte
    return bytes(found)


def cut_or_extended(chance, data):
    """A download that broke off, or something behind the end."""
    if chance.random() < 0.6:
        return data[: chance.randrange(len(data))]
    return data + chance.randbytes(chance.choice([1, 8, 1000]))


def claimed_length(chance, data):
    """The header says that it is longer or shorter than it is."""
    (size,) = struct.unpack("<Q", data[:8])
    lengths = [0, 1, size - 1, size + 1, 10**7, 10**8, 10 * 2**30, 2**63]
    lengths += [2**64 - 1, chance.randrange(2**64), chance.randrange(len(data))]
    return struct.pack("<Q", chance.choice(lengths)) + data[8:]


def header_json(chance, data):
    """The header's JSON holds something else somewhere."""
    header, record, body = parts(data)
    spoil(chance, header)
    return joined(header, None, body)


def record_json(chance, data):
    """The record's JSON holds something else somewhere."""
    header, record, body = parts(data)
    spoil(chance, record)
    return joined(header, record, body)


def record_text(chance, data):
    """The record is a text of another kind: twice a key, deep, no JSON."""
    header, record, body = parts(data)
    text = json.dumps(record)
    key = chance.choice(list(record))
    deep = chance.choice([100, 990, 1100, 5000, 200_000])
    found = chance.choice(
        [
            f'{{"{key}": {dumps(any_value(chance))}, {text[1:]}',
            f'{text[:-1]}, "{key}": {dumps(any_value(chance))}}}',
            f'{text[:-1]}, "extra": {"[" * deep}{"]" * deep}}}',
            '{"a":' * deep + "1" + "}" * deep,
            "[" * deep,
            "1" * 5000,
            text.replace("8", "8" * 4000),
            f'{text[:-1]}, "x": {1}{"0" * 4500}}}',
            "",
            "null",
            dumps(any_value(chance)),
            text.replace('"', "'"),
            "\ufeff" + text,
        ]
    )
    return joined(header, found, body)


def names(chance, data):
    """A layer, a tensor or a weight has another name, maybe everywhere."""
    header, record, body = parts(data)
    text = json.dumps([header, record])
    words = re.findall(r'"([\w@/]+)":', text)
    old = chance.choice(words)
    new = json.dumps(chance.choice(TEXTS))[1:-1]
    if chance.random() < 0.3:
        new = old + new
    header, record = json.loads(text.replace(f'"{old}"', f'"{new}"'))
    return joined(header, record, body)


def settings(chance, data):
    """A setting is of an odd size; sometimes the tensors are made to fit."""
    _, record, _ = parts(data)
    tensors = tensors_of(data)
    path = chance.choice(list(record["layers"]))
    mine = record["layers"][path]
    name = chance.choice(list(mine))
    mine[name] = chance.choice([*NUMBERS, *TEXTS[-8:]])
    if name in ("rank", "bottleneck") and chance.random() < 0.7:
        size = mine[name] = chance.randrange(1, 40)
        for key, (dtype, shape, _) in tensors.items():
            if key.rpartition("/")[0] == path and len(shape) == 2:
                place = key.endswith(("lora_a", "down_kernel"))
                shape[int(place)] = size
                count = int(np.prod(shape))
                values = np.full(count, 0.1, "float32").tobytes()
                tensors[key] = (dtype, shape, values)
    return rebuilt(record, tensors)


def head(chance, data):
    """The head names other classes, other settings or other shapes."""
    _, record, _ = parts(data)
    tensors = tensors_of(data)
    found = record["head"] or {"input": 0, "layers": []}
    record["head"] = found
    if not found["layers"] or chance.random() < 0.2:
        kind = chance.choice([*PLAIN, *CLASSES])
        entry = {"class": kind, "config": {}, "input_shape": [None, 4]}
        found["layers"].insert(0, entry)
    entry = chance.choice(found["layers"])
    act = chance.randrange(7)
    if act == 0:
        entry["class"] = chance.choice([*CLASSES, *TEXTS])
    elif act == 1:
        entry["class"] = chance.choice(PLAIN)
    elif act == 2:
        place = chance.choice([*entry["config"], *SETTINGS])
        entry["config"][place] = any_value(chance)
    elif act == 3:
        name = chance.choice(["activation", "dtype", "name", "call"])
        entry["config"][name] = {
            "module": chance.choice(["os", "keras.layers", "builtins"]),
            "class_name": chance.choice([*CLASSES, "function"]),
            "config": any_value(chance),
            "registered_name": chance.choice(TEXTS),
        }
    elif act == 4:
        sizes = [None, 0, -1, 4, 10**6, 10**12, 2**63, 0.5, "4", True]
        count = chance.randrange(5)
        entry["input_shape"] = [chance.choice(sizes) for _ in range(count)]
    elif act == 5:
        found["input"] = chance.choice([0, 1, 7, 2**63, 10**400])
    else:
        times = chance.choice([2, 30, 3000])
        found["layers"] = found["layers"] * times
    return rebuilt(record, tensors)


def tensor_content(chance, data):
    """Tensors of another dtype or shape, or with NaN and infinity."""
    _, record, _ = parts(data)
    tensors = tensors_of(data)
    for _ in range(chance.choice([1, 1, 2, 4])):
        key = chance.choice(list(tensors))
        dtype, shape, values = tensors[key]
        act = chance.randrange(7)
        if act < 2:
            dtype = chance.choice(list(DTYPES))
            count = int(np.prod(shape)) * DTYPES[dtype]
            values = chance.choice([bytes(count), chance.randbytes(count)])
        elif act == 2 and len(values) >= 4:
            spots = np.frombuffer(values, "uint8").copy()
            odd = chance.choice([np.nan, np.inf, -np.inf, 1e38, 3e-39])
            spots[-4:] = np.frombuffer(np.float32(odd).tobytes(), "uint8")
            values = spots.tobytes()
        elif act == 3:
            shape = shape[::-1]
        elif act == 4:
            shape = chance.choice([[], [0], [1, *shape], [0, 2**40], [2, 0]])
            count = int(np.prod(shape, dtype=object)) if shape else 1
            values = bytes(4 * count)
            dtype = "F32"
        elif act == 5:
            tensors.pop(key)
            if not tensors:
                break
            continue
        else:
            shape = [int(np.prod(shape))]
        tensors[key] = (dtype, shape, values)
    return rebuilt(record, tensors)


def many_tensors(chance, data, count=None):
    """A great many tensors, of a layer there is, of none, or of the head."""
    header, record, body = parts(data)
    count = count or chance.choice([100, 1000, 5000])
    owner = chance.choice([*record["layers"], "nowhere", "@head/0", "@outside"])
    end = len(body)
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [end, end]}
    header.update({f"{owner}/t{n}": entry for n in range(count)})
    return joined(header, record, body)


def large_header(chance, data):
    """A record, or a header, of many megabytes."""
    header, record, body = parts(data)
    size = chance.choice([10**5, 10**6])
    act = chance.randrange(4)
    if act == 0:
        record["extra"] = "x" * size
    elif act == 1:
        record["trained"] = [f"layer_{n}" for n in range(size // 20)]
    elif act == 2:
        entry = ["float32", [1], "0" * 16]
        more = {f"v{n}": entry for n in range(size // 50)}
        record["base"]["variables"].update(more)
    else:
        some = next(iter(record["layers"].values()))
        record["layers"].update({f"l{n}": some for n in range(size // 100)})
    return joined(header, record, body)


def untouched(chance, data):
    """A good file, which loads."""
    return data


KINDS = {
    kind.__name__: kind
    for kind in (
        bytes_anywhere,
        bytes_in_header,
        cut_or_extended,
        claimed_length,
        header_json,
        record_json,
        record_text,
        names,
        settings,
        head,
        tensor_content,
        many_tensors,
        large_header,
        untouched,
    )
}
RARE = ("many_tensors", "large_header", "untouched")
"""Kinds that are slow or say little: one of each in a hundred inputs."""
