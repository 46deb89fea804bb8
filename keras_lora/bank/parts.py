"""All tasks about the same rows: what their adapters share is run once."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import keras
import numpy as np

from keras_lora.bank.adapter import BankAdapter
from keras_lora.bank.batches import Adapters
from keras_lora.bank.fan import Bare, Fan, StackedStage
from keras_lora.bank.models import like
from keras_lora.methods.side import SideKind
from keras_lora.model import graphs, surgery
from keras_lora.model.compiled import HOST
from keras_lora.model.surgery import Layer
from keras_lora.split import Place, called_apart, cut_before

AT_ONCE = 8
"""Most adapters in one compiled call: it is traced for each number of them."""
Shared: TypeAlias = frozenset[tuple[str, str]]
"""What adapters go together by: the path of each layer that they adapt, and
the stack where the cut goes beside the layer; empty where it goes before it."""


def shared_by(adapter: BankAdapter) -> Shared:
    """What an adapter goes together with others by."""
    return frozenset(
        (path, kind.key if isinstance(kind, SideKind) else "")
        for path, kind in adapter.kinds.items()
    )


def grouped(chosen: Adapters) -> dict[Shared, list[BankAdapter]]:
    """Adapters by what they go together by, those that adapt most first."""
    found: dict[Shared, list[BankAdapter]] = {}
    for adapter in chosen.values():
        found.setdefault(shared_by(adapter), []).append(adapter)
    return dict(sorted(found.items(), key=lambda item: -len(item[0])))


class Parts:
    """A served base cut in two for adapters that share its first part.

    Args:
        first: What is run once, without any adapter: a model, its inputs by
            name.
        rest: What each of them runs.
        whole: The bank's model, which says how others over the base run.
        stages: The stacks that the rest reads beside blocks.
        at_once: Whether the adapters are those stages and nothing else.
    """

    def __init__(
        self,
        first: Any,
        rest: Any,
        whole: Any,
        stages: list[StackedStage],
        at_once: bool,
    ) -> None:
        self._first, self._rest, self._whole = first, rest, whole
        self._stages, self._at_once = stages, at_once
        self._models: dict[tuple[str, int], Any] = {}

    @property
    def saved(self) -> int:
        """What is run once, in weights that are multiplied by."""
        layers = surgery.every_layer(self._first)
        return sum(
            int(np.prod(variable.shape))
            for layer in layers
            if not isinstance(layer, keras.layers.Embedding)
            for variable in surgery.tracked_variables(layer)
        )

    def is_stale(self) -> bool:
        """Whether a stack that it reads is not its host's any more."""
        return any(stage.is_stale() for stage in self._stages)

    def features(self, inputs: Any) -> Any:
        """What the first part gives."""
        return like(self._whole, self._first).predict_on_batch(inputs)

    def of_features(self, features: Any, slots: Sequence[int]) -> list[Any]:
        """The base's outputs with the adapter in each of some slots."""

        def symbolic() -> tuple[Any, Any]:
            found = keras.tree.map_structure(
                lambda t: keras.Input(t.shape[1:], dtype=t.dtype, name=t.name),
                graphs.untracked(graphs.graph_inputs(self._rest)),
            )
            return found, found

        return self._outputs("features", symbolic, features, slots)

    def of_inputs(self, inputs: Any, slots: Sequence[int]) -> list[Any]:
        """The same by one compiled call, where no others come after it."""
        return self._outputs(
            "inputs",
            lambda: (self._first.input, self._first.output),
            inputs,
            slots,
        )

    def _outputs(
        self,
        what: str,
        symbolic: Callable[[], tuple[Any, Any]],
        given: Any,
        slots: Sequence[int],
    ) -> list[Any]:
        """Runs the rest on features that come from what is given."""
        count = len(slots)
        if (what, count) not in self._models:
            inputs, features = symbolic()
            places = keras.Input(
                batch_shape=(count,), dtype="int32", name="slots"
            )
            outputs = Fan(self._rest, count, self._at_once)(features, places)
            self._models[what, count] = keras.Model([inputs, places], outputs)
        model = like(self._whole, self._models[what, count])
        several = model.predict_on_batch([given, np.array(slots, "int32")])
        return [
            keras.tree.map_structure(lambda y, n=n: y[n], several)
            for n in range(count)
        ]


def parts_for(
    base: Layer,
    inputs: Any,
    named: dict[str, Any],
    hosts: dict[str, Any],
    shared: Shared,
    whole: Any,
) -> Parts | None:
    """Cuts a base for adapters; None where they share nothing of it.

    Args:
        base: The served base.
        inputs: Its symbolic inputs, in its structure.
        named: The same by name, as the bank's own model takes them.
        hosts: Its layers with stacks, by path.
        shared: What the adapters adapt.
        whole: The bank's model.
    """
    stages: list[StackedStage] = []
    touched = {id(hosts[path]): key for path, key in shared}

    def apart(operation: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        key = touched.get(id(operation))
        if not key:
            return None
        stack = operation.stacks[key]
        place = Place(stack.kind.stream, stack.kind.stage)
        stage = StackedStage(operation, stack)
        stages.append(stage)
        return called_apart(operation, stage, place, args, kwargs)

    def begins(operation: Any) -> bool:
        if isinstance(operation, StackedStage):
            return True
        if not isinstance(operation, keras.Layer) or is_bare(operation):
            return False
        return any(id(la) in touched for la in surgery.every_layer(operation))

    found = cut_before(base, begins, apart)
    if found is None:
        return None
    first, rest = found
    outputs = Bare(first)(inputs)
    at_once = all(touched.values())
    return Parts(keras.Model(named, outputs), rest, whole, stages, at_once)


def is_bare(operation: Any) -> bool:
    """Whether an operation stands for a host without its stage."""
    return HOST in operation.__dict__
