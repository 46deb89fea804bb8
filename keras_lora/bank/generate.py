"""Generation with a KerasHub language model, each row with its own adapter.

The rows' adapter weights are gathered before a call and handed to its compiled
function as inputs. They are not looked up again for each token, no function is
bound to the bank's slots, and a call that runs needs none of them.
"""

import copy
import functools
import gc
import itertools
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, TypeAlias

import keras
from keras import ops

from keras_lora.bank.prompts import Prompts, Tokens, longest_prompt
from keras_lora.bank.routing import RowWeights, serve_rows
from keras_lora.bank.slots import Slots
from keras_lora.model import surgery
from keras_lora.model.compiled import Hold
from keras_lora.model.paths import Layers
from keras_lora.model.surgery import Layer

StopIds: TypeAlias = tuple[int, ...] | None


class Generator:
    """A KerasHub language model over a served base, and its functions.

    Attributes:
        task: A `CausalLM` or `Seq2SeqLM`.
        slots: The bank's.
        longest: The greatest length the model can take, if there is one.
    """

    def __init__(
        self, task: Any, slots: Slots, layers: Layers, hold: Hold
    ) -> None:
        self.task, self.slots, self._hold = task, slots, hold
        self.longest = longest_prompt(layers.values())
        self._made: dict[StopIds, Callable[..., Any]] = {}
        self._made_for: Any = None
        self._lock = threading.Lock()

    @property
    def searches_beams(self) -> bool:
        """Whether rows of one batch are not independent of each other.

        KerasHub's beam search starts all rows at the shortest prompt's end
        with a single beam each, and moves rows that have ended until all have.
        """
        kinds = [kind.__name__ for kind in type(self.task.sampler).__mro__]
        return "BeamSampler" in kinds

    def apart(self, prompts: Prompts) -> list[list[int]]:
        """Rows that may be generated together."""
        rows = range(prompts.rows)
        if not self.searches_beams:
            return [list(rows)]
        if prompts.stop_ids is not None:
            return [[row] for row in rows]
        sizes = prompts.sizes
        return [
            [row for row in rows if sizes[row] == size]
            for size in sorted(set(sizes))
        ]

    def run(
        self,
        tokens: Tokens,
        weights: RowWeights,
        limit: int,
        stop_ids: StopIds,
    ) -> Tokens:
        """Generates up to a length.

        Args:
            tokens: Prompts, padded to the length that is compiled.
            weights: What the rows' adapters are; empty for the base.
            limit: Tokens in a row, prompt and answer together.
            stop_ids: Tokens that end a row, or None.
        """
        # Read, not compiled: a limit or an adapter traces nothing again.
        inputs = keras.tree.map_structure(ops.convert_to_tensor, tokens)
        ends_at = ops.convert_to_tensor(limit, "int32")
        outputs = self._function(stop_ids)(inputs, weights, ends_at)
        return {
            name: ops.convert_to_numpy(value) for name, value in outputs.items()
        }

    def _function(self, stop_ids: StopIds) -> Callable[..., Any]:
        """What generates; made anew where the sampler is another."""
        task = self.task
        made_for = (task.sampler, task.run_eagerly, jit_compile(task))
        with self._lock:
            if made_for != self._made_for:
                self._made.clear()
                self._made_for = made_for
            found = self._made.get(stop_ids)
        if found is not None:
            return found
        # Without the lock: they are read while the bank is held, and who holds
        # it may wait for the lock.
        variables = self._variables()
        step = functools.partial(self._step, stop_ids, variables)
        made = compiled(step, task, variables, self._hold)
        with self._lock:
            if made_for != self._made_for:
                return made
            return self._made.setdefault(stop_ids, made)

    def _variables(self) -> list[Any]:
        """The model's own variables, without what is in the slots."""
        with self._hold():
            slots = {
                id(variable)
                for host in self.slots.hosts.values()
                for variable in host.adapter_weights.values()
            }
            return [v for v in self.task.variables if id(v) not in slots]

    def _step(
        self,
        stop_ids: StopIds,
        variables: list[Any],
        inputs: Any,
        weights: RowWeights,
        limit: Any,
    ) -> Any:
        twin = ending_at(self.task, limit, inputs, variables)
        with serve_rows(self.slots.hosts, weights):
            return twin.generate_step(inputs, stop_ids)


def ending_at(task: Any, limit: Any, inputs: Any, variables: list[Any]) -> Any:
    """The task with a sampler that stops at `limit`, a tensor ().

    Its own sampler stops where the prompt's padding does, which is compiled,
    and takes all variables of the model into its loop, those of slots too.
    """
    read = SimpleNamespace(
        trainable_variables=[], non_trainable_variables=variables
    )
    sampler = copy.copy(task.sampler)
    run_loop = sampler.run_loop
    name = "token_ids" if "token_ids" in inputs else "decoder_token_ids"
    beyond = inputs[name].shape[1] - limit

    def run_to_limit(*args: Any, maximum_iterations: Any, **kwargs: Any) -> Any:
        kwargs["model"] = read
        return run_loop(
            *args, maximum_iterations=maximum_iterations - beyond, **kwargs
        )

    sampler.__dict__["run_loop"] = run_to_limit
    return surgery.view(task, type(task), sampler=sampler)


def compiled(
    step: Callable[..., Any],
    task: Any,
    variables: list[Any],
    hold: Hold,
) -> Callable[..., Any]:
    """A step compiled as KerasHub compiles its own, for each shape once."""
    backend = keras.backend.backend()
    if backend == "torch":
        import torch

        return torch.no_grad()(step)
    if task.run_eagerly:
        return step
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.function(step, jit_compile=jit_compile(task))
    return compiled_by_jax(step, task, variables, hold)


def compiled_by_jax(
    step: Callable[..., Any],
    task: Any,
    variables: list[Any],
    hold: Hold,
) -> Callable[..., Any]:
    """The same on JAX, where variables go in and seeds come out.

    They are read while the bank is held: Keras empties them for as long as
    the base's own `predict` runs.
    """
    import jax

    seeds = task.sampler.variables

    @jax.jit
    def stateless(args: Any, state: Any) -> Any:
        mapping = itertools.chain(
            zip(seeds, state[0], strict=True),
            zip(variables, state[1], strict=True),
        )
        with keras.StatelessScope(state_mapping=mapping) as scope:
            outputs = step(*args)
        found = [scope.get_current_value(seed) for seed in seeds]
        return outputs, [
            seed.value if value is None else value
            for seed, value in zip(seeds, found, strict=True)
        ]

    def run(*args: Any) -> Any:
        with hold():
            state = [[v.value for v in group] for group in (seeds, variables)]
        outputs, moved = stateless(args, state)
        for seed, value in zip(seeds, moved, strict=True):
            seed.assign(value)
        return outputs

    return run


def jit_compile(task: Any) -> bool:
    """Whether a task is compiled by XLA."""
    return bool(getattr(task, "jit_compile", True))


def language_model(base: Layer, task: Any) -> Any:
    """The language model over a base: itself, or one that is alive."""
    what = "Nothing was generated"
    if task is None and hasattr(base, "generate_step"):
        return base
    if task is not None:
        if task is base or getattr(task, "backbone", None) is base:
            return task
        raise ValueError(f"{what}: {task!r} is not over the bank's base")
    found = [
        thing
        for thing in gc.get_objects()
        if hasattr(type(thing), "generate_step")
        and getattr(thing, "backbone", None) is base
    ]
    if len(found) != 1:
        raise ValueError(
            f"{what}: {base.name!r} has no `generate_step` and is the backbone "
            f"of {len(found)} language models: say which by `task`"
        )
    return found[0]
