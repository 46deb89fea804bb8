"""One adapter as a bank holds it: checked against the base, on the host."""

import functools
import os
import re
from dataclasses import dataclass, field
from typing import Any

import keras
from keras import ops

from keras_lora.bank.head import (
    head_misfits,
    output_shape,
    reads_mask,
    run_head,
)
from keras_lora.bank.host import BankHost, stack_class
from keras_lora.bank.watch import Unfit
from keras_lora.errors import raise_if, shorten
from keras_lora.files.format import AdapterInfo, inspect_adapter, read_tensors
from keras_lora.files.head_config import rebuild_head, wrong_head
from keras_lora.files.labels import labels_misfit
from keras_lora.files.match import apart_in, misfits_of
from keras_lora.methods import METHODS
from keras_lora.methods.method import Method, Widths
from keras_lora.methods.stack import BASE_BAND, Arrays, Kind, Stack
from keras_lora.model import surgery
from keras_lora.model.fingerprint import other_base
from keras_lora.model.paths import Layers, owner
from keras_lora.model.surgery import Layer
from keras_lora.peft.as_file import read_as_file
from keras_lora.peft.folder import CONFIG
from keras_lora.peft.origin import Origin, origin_of

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, eq=False)
class BankAdapter:
    """An adapter's weights on the host, ready to be put into a slot.

    Attributes:
        name: What callers ask for.
        info: The header of the file it came from.
        tensors: All tensors of the file.
        kinds: Which stack each adapted layer needs, by path.
        head: The rebuilt head, or None: features come out then.
    """

    name: str
    info: AdapterInfo
    tensors: Arrays
    kinds: dict[str, Kind]
    head: Any
    _afforded: set[Any] = field(default_factory=set, repr=False)

    @property
    def bytes(self) -> int:
        """Bytes that its values take on the host."""
        return sum(value.nbytes for value in self.tensors.values())

    @property
    def resident_bytes(self) -> int:
        """Bytes of its adapter weights alone, without padding."""
        return sum(
            value.nbytes
            for key, value in self.tensors.items()
            if not key.startswith("@")
        )

    @functools.cached_property
    def band(self) -> int:
        """Up to which band its rows read stacks."""
        return max((k.band for k in self.kinds.values()), default=BASE_BAND)

    @property
    def size(self) -> str:
        """Largest rank or inner width, for people."""
        largest: dict[str, int] = {}
        for kind in self.kinds.values():
            unit = stack_class(kind.method).unit
            largest[unit] = max(kind.size, largest.get(unit, 0))
        parts = [f"{unit} {n}" for unit, n in sorted(largest.items()) if unit]
        return ", ".join(parts) or "factors"

    def values(self, path: str, host: Any, stack: Stack) -> Arrays | None:
        """What goes into a slot of a stack on the layer at `path`, if any."""
        mine = self.kinds.get(path)
        if mine is None or mine.key != stack.kind.key:
            return None
        settings, weights = self.info.layers[path], self._by_layer[path]
        return stack.values(host, settings, weights)

    @functools.cached_property
    def _by_layer(self) -> dict[str, Arrays]:
        found: dict[str, Arrays] = {path: {} for path in self.info.layers}
        for key, value in self.tensors.items():
            path = owner(key)
            if path in found:
                found[path][key.removeprefix(f"{path}/")] = value
        return found

    def outputs(self, features: Any) -> Any:
        """The head's output for a nest of the base's outputs, batch first."""
        if self.head is None:
            return features
        assert self.info.head is not None
        y = keras.tree.flatten(features)[self.info.head["input"]]
        y = ops.convert_to_tensor(y)
        self._check_cost(tuple(y.shape))
        return ops.convert_to_numpy(run_head(self.head.layers, y))

    def _check_cost(self, shape: tuple[int, ...]) -> None:
        """Refuses what the head would cost at lengths that a call brings."""
        if shape[1:] in self._afforded:
            return
        assert self.info.head is not None
        shapes = {key: size for key, (_, size) in self.info.tensors.items()}
        problems = wrong_head(self.info.head, shapes, shape)
        raise_if(f"The head of {self.name!r} was not run", problems)
        self._afforded.add(shape[1:])


@dataclass(frozen=True)
class ServedBase:
    """What a file is checked against.

    Attributes:
        layers: The base's layers by path.
        digests: Its fingerprint.
        sampled: Whether that is of samples.
        outputs: Its symbolic outputs.
        unfit: Layers that cannot have an adapter for each row.
    """

    layers: Layers
    digests: dict[str, Any]
    sampled: bool
    outputs: list[Any]
    unfit: Unfit
    _widths: dict[tuple[str, str], Widths] = field(
        default_factory=dict, repr=False
    )

    @functools.cached_property
    def origin(self) -> Origin:
        """Where its layers come from, for PEFT folders."""
        return origin_of(self.layers, None)

    def widths(self, path: str, method: Method) -> Widths:
        """The widths that a method has to know of the layer at `path`."""
        key = path, method.name
        if key not in self._widths:
            self._widths[key] = method.widths(plain(self.layers[path]))
        return self._widths[key]


def read_adapter(
    name: str, path: str | os.PathLike[str], base: ServedBase
) -> BankAdapter:
    """Reads a file that will be called `name`, all checked for this base."""
    what = f"{path} was not loaded as {name!r}"
    raise_if(what, wrong_name(name))
    info, tensors = read_any(path, base, what)
    shared = {
        key: entry
        for key, entry in base.digests.items()
        if owner(key) not in info.trained
    }
    problems = other_base(info.base["variables"], shared)
    raise_if(f"{what}: it belongs to another base", problems[:50])
    problems = [
        f"{key!r} was trained in the base itself, which other adapters share"
        for key in info.tensors
        if owner(key) in info.trained
    ]
    if info.outside:
        problems.append(
            "it holds weights that load into its own outer model only: "
            + shorten(info.outside)
        )
    for path, settings in info.layers.items():
        problems += not_served(path, settings["method"], base)
    named = base.layers.keys() & info.layers.keys()
    plain_layers = {path: plain(base.layers[path]) for path in named}
    misfits = misfits_of(info, plain_layers, base.widths, "tensor ")
    problems += sum(misfits.values(), [])
    problems += apart_in(info, base.layers)
    raise_if(what, problems)
    if tensors is None:
        tensors = read_tensors(info)
    head = None
    if info.head is not None:
        given = output_shape(base.outputs, info.head["input"])
        head = rebuild_head(info.head, info.path, tensors, given)
        problems = head_misfits(info.head, head.layers, base.outputs)
        if info.head["input"] in base.unfit.masked:
            problems += reads_mask(info.head, head.layers)
        raise_if(what, problems)
    raise_if(what, misnamed(info, head, base.outputs))
    kinds = {
        path: stack_class(settings["method"]).kind_of(settings)
        for path, settings in info.layers.items()
    }
    return BankAdapter(name, info, tensors, kinds, head)


def misnamed(info: AdapterInfo, head: Any, outputs: list[Any]) -> list[str]:
    """Says whether a file's labels do not fit what its adapter gives."""
    if not info.labels:
        return []
    y = outputs[0]
    if head is not None:
        assert info.head is not None
        y = outputs[info.head["input"]]
        for layer in head.layers:
            y = layer.compute_output_spec(y)
    what = "the base" if head is None else "the head"
    return labels_misfit(info.labels, y.shape[-1], what)


def read_any(
    path: str | os.PathLike[str], base: ServedBase, what: str
) -> tuple[AdapterInfo, Arrays | None]:
    """What a file says, or a PEFT folder and its values as in a file."""
    if not os.path.exists(os.path.join(path, CONFIG)):
        return inspect_adapter(path), None
    try:
        origin = base.origin
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error
    return read_as_file(
        path, origin, base.digests, base.sampled, base.outputs, what
    )


def not_served(path: str, method: str, base: ServedBase) -> list[str]:
    """Says why no bank serves a method, or not on the layer at `path`."""
    stack = METHODS[method].stack
    if stack is None:
        return [f"{path}: no bank serves the method {method!r}"]
    return base.unfit.problem(path, stack.reads)


def plain(layer: Layer) -> Layer:
    """A plain or served layer as it is without any adapters."""
    if isinstance(layer, BankHost):
        return surgery.view(layer, layer._host_class)
    return layer


def wrong_name(name: Any) -> list[str]:
    """Says what keeps a name from being one."""
    if isinstance(name, str) and NAME.fullmatch(name):
        return []
    return [
        "a name is 1 to 100 letters, digits, dots, dashes and underscores, "
        f"a letter or digit first. Received: {name!r}"
    ]
