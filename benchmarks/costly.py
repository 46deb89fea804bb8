"""Random heads of allowed layers, with sizes as an attacker would choose them.

A head's weights are made to fit its config where they are few, so that a file
is not refused for want of them.
"""

import math

from benchmarks import odd_parts
from keras_lora.files.layer_cost import layer_cost
from keras_lora.files.sizes import Unclear

MOST_WEIGHTS = 1 << 16
"""Numbers in a weight that is made; more are claimed and not there."""
ACTIVATIONS = ["relu", "softmax", "sparsemax", "glu", "gelu", "linear", None]
LARGE = [100, 512, 1000, 4096, 10**5, 10**6, 10**9, 2**31, 2**63, 10**30]
ODD = [0, -1, 1e9, 1e308, 0.5, True, None, "4", [], [10**9], [2, 2, 2, 2]]


class Sizes:
    """Where the sizes of a head come from: small ones, or any."""

    def __init__(self, chance, hostile):
        self.chance, self.hostile = chance, hostile

    def one(self, most=8):
        if self.hostile and self.chance.random() < 0.15:
            return self.chance.choice(LARGE)
        if self.hostile and self.chance.random() < 0.03:
            return self.chance.choice(ODD)
        return self.chance.randint(1, most)

    def many(self, count):
        if self.chance.random() < 0.5:
            return self.one(4)
        return [self.one(4) for _ in range(count)]


def random_head(chance, shape=None, hostile=True, classes=None):
    """A shape without batch, a head's entries, and the weights they need.

    With `classes`, a layer that tells so many apart comes last.
    """
    rank = chance.randint(1, 4)
    shape = tuple(shape or (chance.randint(1, 8) for _ in range(rank)))
    entries, weights = [], {}
    now = list(shape)
    last = [flatten, classifier(classes)] if classes else []
    sizes = Sizes(chance, hostile)
    makers = [random_layer] * chance.choice([1, 2, 3, 4, 8])
    for number, make in enumerate(makers + last):
        kind, config, after, own = make(chance, sizes, now)
        stated = [None, *now] if own or chance.random() < 0.5 else None
        entries.append({"class": kind, "config": config, "input_shape": stated})
        for name, size in own.items():
            if all(type(n) is int and n > 0 for n in size) and (
                math.prod(size) <= MOST_WEIGHTS
            ):
                weights[f"@head/{number}/{name}"] = tuple(size)
        now = after
        if not all(type(n) is int and n > 0 for n in now):
            break
    return shape, entries, weights


def flatten(chance, sizes, shape):
    return "Flatten", {}, [math.prod(shape)], {}


def classifier(classes):
    def make(chance, sizes, shape):
        own = {"kernel": [*shape, classes], "bias": [classes]}
        return "Dense", {"units": classes}, [classes], own

    return make


def random_layer(chance, sizes, shape):
    """A class, its config, the shape that it makes, and its weights' shapes."""
    makers = [dense, norm, elementwise, reshape, einsum, rescaling, permute]
    if 2 <= len(shape) <= 4:
        makers += [convolution, pooling, pooling, global_pooling] * 2
    return chance.choice(makers)(chance, sizes, shape)


def dense(chance, sizes, shape):
    units = sizes.one(16)
    activation = chance.choice(ACTIVATIONS)
    config = {"units": units, "activation": activation}
    after = [*shape[:-1], halved(units, activation)]
    return (
        "Dense",
        config,
        after,
        {"kernel": [shape[-1], units], "bias": [units]},
    )


def halved(size, activation):
    if activation != "glu" or type(size) is not int:
        return size
    return size // 2


def norm(chance, sizes, shape):
    kind = chance.choice(
        [
            "LayerNormalization",
            "RMSNormalization",
            "BatchNormalization",
            "UnitNormalization",
            "GroupNormalization",
            "Softmax",
        ]
    )
    axis = chance.choice([-1, len(shape), chance.randint(1, len(shape))])
    place = axis - 1 if axis > 0 else axis
    size = [shape[place]]
    config = {"axis": axis}
    if kind in ("LayerNormalization", "RMSNormalization"):
        config["axis"] = chance.choice([axis, [axis]])
        if sizes.hostile and chance.random() < 0.2:
            config["axis"] = [axis] * 2
            size = size * 2
    if kind == "GroupNormalization":
        config["groups"] = chance.choice([1, -1, sizes.one()])
    own = {
        "LayerNormalization": ["gamma", "beta"],
        "RMSNormalization": ["scale"],
        "BatchNormalization": [
            "gamma",
            "beta",
            "moving_mean",
            "moving_variance",
        ],
        "GroupNormalization": ["gamma", "beta"],
    }
    return kind, config, list(shape), {name: size for name in own.get(kind, [])}


def elementwise(chance, sizes, shape):
    kind = chance.choice(
        [
            "Activation",
            "Dropout",
            "ReLU",
            "ELU",
            "LeakyReLU",
            "Identity",
            "PReLU",
            "GaussianNoise",
            "AlphaDropout",
            "GaussianDropout",
        ]
    )
    config, own, after = {}, {}, list(shape)
    if kind == "Activation":
        name = chance.choice(ACTIVATIONS[:-1])
        config = {"activation": name}
        after[-1] = halved(after[-1], name)
    elif "Dropout" in kind:
        config = {"rate": 0.5}
    elif kind == "GaussianNoise":
        config = {"stddev": 0.5}
    elif kind == "PReLU":
        own = {"alpha": list(shape)}
    return kind, config, after, own


def reshape(chance, sizes, shape):
    whole = math.prod(shape)
    if chance.random() < 0.3:
        return flatten(chance, sizes, shape)
    divisors = [n for n in range(1, 65) if whole % n == 0]
    first = chance.choice(divisors)
    target = [first, whole // first]
    if chance.random() < 0.5:
        target.append(1)
        chance.shuffle(target)
    stated = list(target)
    if chance.random() < 0.3:
        stated[chance.randrange(len(stated))] = -1
    if sizes.hostile and chance.random() < 0.2:
        stated = target = [sizes.one() for _ in range(chance.randint(1, 4))]
    return "Reshape", {"target_shape": stated}, target, {}


def permute(chance, sizes, shape):
    dims = list(range(1, len(shape) + 1))
    chance.shuffle(dims)
    return "Permute", {"dims": dims}, [shape[n - 1] for n in dims], {}


def einsum(chance, sizes, shape):
    """An outer product, a contraction, or both; with dots or without."""
    labels = "bcdefgh"[: len(shape)]
    new = sizes.one(16)
    kept = chance.sample(labels, chance.randint(0, len(labels)))
    kept = [label for label in labels if label in kept]
    used = [la for la in labels if la not in kept or chance.random() < 0.2]
    of = dict(zip(labels, shape, strict=True))
    after = [*(of[label] for label in kept), new]
    equation = f"a{labels},{''.join(used)}z->a{''.join(kept)}z"
    config = {"equation": equation, "output_shape": after}
    if chance.random() < 0.3:
        used = labels[-1]
        config = {"equation": f"...{used},{used}z->...z", "output_shape": new}
        after = [*shape[:-1], new]
    own = {"kernel": [*(of[label] for label in used), new]}
    if chance.random() < 0.5:
        config["bias_axes"] = "z"
        own["bias"] = [new]
    return "EinsumDense", config, after, own


def rescaling(chance, sizes, shape):
    few = shape[-1] if shape[-1] <= 1000 else 1
    scale = chance.choice([0.5, [0.5] * few, [[0.5]]])
    config = {"scale": scale}
    if sizes.hostile and chance.random() < 0.5:
        many = chance.choice([100, 2000])
        config = {"scale": [[1.0] * many], "offset": [[0.0]] * many}
    return "Rescaling", config, list(shape), {}


def convolution(chance, sizes, shape):
    count = len(shape) - 1
    kernel, filters = sizes.many(count), sizes.one(8)
    groups = chance.choice([1, 1, 1, 2, sizes.one(4)])
    config = {
        "filters": filters,
        "kernel_size": kernel,
        "groups": groups,
        "padding": chance.choice(["valid", "same"]),
        chance.choice(["strides", "dilation_rate"]): sizes.many(count),
    }
    if count == 1 and chance.random() < 0.2:
        config["padding"] = "causal"
    each = kernel if isinstance(kernel, list) else [kernel] * count
    channels = shape[-1]
    if type(groups) is int and groups > 0:
        channels //= groups
    own = {"kernel": [*each, channels, filters], "bias": [filters]}
    after = counted(f"Conv{count}D", config, shape)
    return f"Conv{count}D", config, after, own


def pooling(chance, sizes, shape):
    count = len(shape) - 1
    kind = f"{chance.choice(['Average', 'Max'])}Pooling{count}D"
    config = {
        "pool_size": sizes.many(count),
        "strides": chance.choice([None, sizes.many(count)]),
        "padding": chance.choice(["valid", "same"]),
    }
    return kind, config, counted(kind, config, shape), {}


def global_pooling(chance, sizes, shape):
    count = len(shape) - 1
    kind = f"Global{chance.choice(['Average', 'Max'])}Pooling{count}D"
    config = {"keepdims": chance.random() < 0.5}
    kept = [1] * count if config["keepdims"] else []
    return kind, config, [*kept, shape[-1]], {}


def counted(kind, config, shape):
    """The shape that windows make; the input's where they make none."""
    try:
        return list(layer_cost(kind, config, (1, *shape)).shape[1:])
    except Unclear:
        return list(shape)


def costly_file(good, entries, weights):
    """A good file's bytes with another head."""
    _, record, _ = odd_parts.parts(good)
    tensors = {
        key: value
        for key, value in odd_parts.tensors_of(good).items()
        if not key.startswith("@head/")
    }
    record["head"] = {"input": 0, "layers": entries}
    for key, shape in weights.items():
        count = math.prod(shape)
        tensors[key] = ("F32", list(shape), b"\x0a\xd7\x23\x3c" * count)
    return odd_parts.rebuilt(record, tensors)
