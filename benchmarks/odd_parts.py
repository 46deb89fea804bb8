"""Adapter files taken apart and put together, and odd values to put in."""

import copy
import json
import re
import struct

KEY = "keras_lora"
NUMBERS = [
    0,
    -1,
    1,
    2,
    3,
    7,
    2**31,
    2**63,
    -(2**63),
    10**12,
    10**400,
    10**4000,
    0.5,
    -0.0,
    1e-320,
    1e38,
    1e300,
    float("nan"),
    float("inf"),
    float("-inf"),
]
TEXTS = [
    "",
    "/",
    ".",
    "..",
    "../../etc/passwd",
    "/etc/passwd",
    "C:\\Windows",
    "a" * 10_000,
    "stem",
    "stem/lora_a",
    "@head",
    "@head/0/kernel",
    "@outside/top/kernel",
    "\x00",
    "\x1b[2J\x1b]0;owned\x07",
    "line\nbreak\r",
    "\ud800",
    "\u202egnp",
    "{0}{x!r}%s%n",
    "__class__",
    "__import__('os').system('true')",
    "linear",
    "relu",
    "float16",
    "int8",
    "int8_from_float32",
    "mixed_bfloat16",
    "no_such",
]
CLASSES = [
    "Lambda",
    "TorchModuleWrapper",
    "os.system",
    "builtins.eval",
    "keras.layers.Dense",
    "keras_lora>LoRADense",
    "Wrapper",
    "TFSMLayer",
    "Sequential",
    "Model",
    "Layer",
    "Embedding",
    "__class__",
    "",
]
PLAIN = [
    "Activation",
    "AveragePooling1D",
    "BatchNormalization",
    "Conv1D",
    "Conv2D",
    "Dense",
    "Dropout",
    "EinsumDense",
    "Flatten",
    "GaussianNoise",
    "GlobalMaxPooling1D",
    "GroupNormalization",
    "LayerNormalization",
    "PReLU",
    "Permute",
    "Rescaling",
    "Reshape",
    "Softmax",
    "UnitNormalization",
]
SETTINGS = [
    "activation",
    "axis",
    "bias_constraint",
    "data_format",
    "dtype",
    "epsilon",
    "equation",
    "filters",
    "groups",
    "kernel_initializer",
    "kernel_regularizer",
    "kernel_size",
    "lora_rank",
    "name",
    "output_shape",
    "pool_size",
    "rate",
    "scale",
    "seed",
    "strides",
    "target_shape",
    "trainable",
    "units",
    "use_bias",
]
DTYPES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E5M2": 1,
    "F8_E4M3": 1,
    "I16": 2,
    "U16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "U32": 4,
    "F32": 4,
    "I64": 8,
    "U64": 8,
    "F64": 8,
    "C64": 8,
    "F4": 1,
    "F128": 16,
}


def parts(data):
    """A good file as its header, its record and the tensors' bytes."""
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    record = json.loads(header["__metadata__"][KEY])
    return header, record, data[8 + size :]


def raw(header_text, body):
    """A file of any text as its header."""
    text = header_text.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text)) + text + body


def joined(header, record, body):
    """A file of a header, a record and bytes; `record` may be a text.

    A string like `@deep 9@` in either becomes lists in lists.
    """
    header = copy.deepcopy(header)
    if record is not None:
        text = record if isinstance(record, str) else dumps(record)
        header["__metadata__"] = {KEY: text}
    return raw(dumps(header), body)


def dumps(value):
    """JSON text; too deep for `json.dumps` where `@deep` says so."""
    return re.sub(
        r'"@deep (\d+)@"',
        lambda m: "[" * int(m[1]) + "]" * int(m[1]),
        json.dumps(value),
    )


def rebuilt(record, tensors):
    """A file of a record and arrays by key, as `(dtype, shape, bytes)`."""
    header, body = {}, b""
    for key, (dtype, shape, data) in tensors.items():
        ends = [len(body), len(body) + len(data)]
        header[key] = {"dtype": dtype, "shape": shape, "data_offsets": ends}
        body += data
    return joined(header, record, body)


def tensors_of(data):
    """The tensors of a good file as `rebuilt` takes them."""
    header, _, body = parts(data)
    return {
        key: (
            entry["dtype"],
            list(entry["shape"]),
            body[slice(*entry["data_offsets"])],
        )
        for key, entry in header.items()
        if key != "__metadata__"
    }


def any_value(chance, depth=2):
    """Random JSON of the unkind sort."""
    kind = chance.randrange(8 if depth else 5)
    if kind == 0:
        return chance.choice([True, False, None])
    if kind in (1, 2):
        return chance.choice(NUMBERS)
    if kind in (3, 4):
        return chance.choice(TEXTS)
    if kind == 5:
        return f"@deep {chance.choice([5, 100, 900, 5000, 100_000])}@"
    values = [any_value(chance, depth - 1) for _ in range(chance.randrange(4))]
    if kind == 6:
        return values
    return {chance.choice(TEXTS): value for value in values}


def places(value):
    """Every place in a nest, as the container and the key in it."""
    found = []
    waiting = [value]
    while waiting:
        here = waiting.pop()
        pairs = here.items() if isinstance(here, dict) else enumerate(here)
        for key, child in pairs:
            found.append((here, key))
            if isinstance(child, dict | list):
                waiting.append(child)
    return found


def spoil(chance, nest):
    """Replaces, removes, renames or copies something in a nest."""
    for _ in range(chance.choice([1, 1, 1, 2, 5])):
        found = places(nest)
        if not found:
            return
        holder, key = chance.choice(found)
        act = chance.randrange(6)
        if act == 0:
            del holder[key]
        elif act == 1 and isinstance(holder, dict):
            holder[chance.choice(TEXTS)] = holder.pop(key)
        elif act == 2:
            other, name = chance.choice(found)
            known = isinstance(other, dict) and name in other
            known = known or (isinstance(other, list) and name < len(other))
            holder[key] = copy.deepcopy(other[name]) if known else None
        else:
            holder[key] = any_value(chance)
