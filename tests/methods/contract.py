"""What every method has to meet, and a model that goes through all of it.

A file a method says which configs it has; see `Contract`.
"""

import keras
import numpy as np
import pytest

import keras_lora
from tests.banks import assert_rows, call, make_task, served
from tests.elsewhere import outputs_of_saved_adapter
from tests.marks import pairs
from tests.models import (
    KINDS,
    alone,
    compile_for,
    count_calls,
    difference,
    fit,
    labels_for,
    outputs_of,
    predictions_of,
    rounding,
    same_bits,
    set_random,
    values_of,
)

TORCH = keras.backend.backend() == "torch"
QUICK = ("functional", "bert_backbone")
ALL = (*QUICK, "flattened", "shared_layer", "subclassed", "attention")


def linear(kind):
    """Targets of a kind for methods of linear layers alone."""
    return "all-linear" if isinstance(kind.lora, list) else kind.lora


class Facts:
    """What `eject` has to give back of a base."""

    def __init__(self, base):
        layers = base._flatten_layers()
        self.classes = [type(layer) for layer in layers]
        self.trainable = [layer.trainable for layer in layers]
        self.weights = list(base.weights)
        self.ids = [id(v) for v in base.weights]
        self.variable_ids = [id(v) for v in base.variables]
        self.flags = [v.trainable for v in base.weights]
        self.trainable_ids = [id(v) for v in base.trainable_weights]
        self.paths = [v.path for v in base.weights]
        self.values = values_of(base.weights)

    def assert_same(self, other, values=True):
        mine, theirs = dict(vars(self)), dict(vars(other))
        assert same_bits(mine.pop("values"), theirs.pop("values")) or not values
        mine.pop("weights"), theirs.pop("weights")
        assert mine == theirs


class Case:
    """A model of a kind, before and after its adapter is attached.

    Its methods are the laws, each for the state that the one before leaves.

    Args:
        name: A kind of `KINDS`.
        config: Makes the config of the kind.
        fixed: Names of adapter weights that do not train.
    """

    def __init__(self, name, config, fixed=()):
        self.name, self.kind = name, KINDS[name]
        self.base = self.kind.base()
        self.model = self.kind.model(self.base)
        self.x = self.kind.inputs()
        self.before = Facts(self.base)
        self.outputs = outputs_of(self.model, self.x)
        self.base_outputs = outputs_of(self.base, self.x)
        self.labels = labels_for(self.model, self.x)
        self.config = config(self.kind)
        self.fixed = fixed

    def inject(self):
        keras_lora.inject(self.base, self.config, train=self.kind.train)
        return self

    def now(self):
        return outputs_of(self.model, self.x)

    def with_values(self):
        """Attaches an adapter that changes the output."""
        return self.inject().filled()

    def filled(self):
        set_random(self.model.trainable_variables, seed=5, size=0.1)
        assert difference(self.outputs, self.now()) > 1e-2
        return self

    def starts_as_the_base(self):
        self.inject()
        assert same_bits(self.outputs, self.now())

    def trains_alone(self, eagerly):
        """All that `inject` added or named moves, and nothing else."""
        model, base = self.model, self.base
        named = [
            variable
            for path, variable in zip(
                self.before.paths, self.before.weights, strict=True
            )
            if any(f"/{t}/" in f"/{path}" for t in self.kind.train)
        ]
        in_base = {id(v) for v in base.weights}
        of_head = [v for v in model.weights if id(v) not in in_base]
        plain = set(self.before.ids)
        added = [v for v in base.weights if id(v) not in plain]
        still = [v for v in added if v.name in self.fixed]
        of_adapter = [v for v in added if v.name not in self.fixed]
        expected = [*of_adapter, *named, *of_head]
        ids = set(map(id, expected))
        frozen = [v for v in self.before.weights if id(v) not in ids] + still
        assert of_adapter
        trained = list(map(id, model.trainable_variables))
        assert set(trained) == ids
        frozen_before, before = values_of(frozen), values_of(expected)

        model.trainable = False
        assert model.trainable_variables == []
        model.trainable = True
        assert list(map(id, model.trainable_variables)) == trained
        compile_for(model, self.labels, eagerly=eagerly)
        fit(model, self.x, self.labels)

        assert same_bits(frozen_before, values_of(frozen))
        moved = [
            variable.path
            for variable, old, new in zip(
                expected, before, values_of(expected), strict=True
            )
            if not np.array_equal(old, new)
        ]
        assert moved == [variable.path for variable in expected]
        assert difference(self.outputs, self.now()) > 1e-3

    def is_switched_off_and_on(self):
        on = self.now()
        assert difference(self.outputs, on) > 1e-2
        with keras_lora.disabled(self.model):
            assert same_bits(self.base_outputs, outputs_of(self.base, self.x))
        assert same_bits(on, self.now())

    def is_shown(self, method):
        table = keras_lora.summary(self.model)
        methods = {row.method for row in table.rows}
        assert methods == {method} | ({"trained"} if self.kind.train else set())
        assert all(row.size for row in table.rows if row.method == method)
        assert all(row.parameters for row in table.rows)
        variables = self.model.trainable_variables
        count = sum(int(np.prod(v.shape)) for v in variables)
        assert table.trainable == count
        assert method in str(table)

    def is_the_same_from_its_file(self, folder, elsewhere):
        """In another process, on the same kind of model built there."""
        file = folder / "task.safetensors"
        keras_lora.save_adapter(self.model, file)
        there = elsewhere(outputs_of_saved_adapter, self.name, file)
        assert difference(self.now(), there) <= 1e-5

    def is_saved_by_keras(self, folder):
        """As a `.keras` file, and as weights of the same adapted model."""
        model, x = self.model, self.x
        model.save(folder / "model.keras")
        model.save_weights(folder / "model.weights.h5")
        adapted = self.now()
        loaded = keras.saving.load_model(folder / "model.keras")
        assert difference(adapted, outputs_of(loaded, x)) <= 1e-6
        trained = [v.path for v in model.trainable_variables]
        assert len(loaded.trainable_variables) == len(trained)
        set_random(model.trainable_variables, seed=9)
        assert difference(adapted, self.now()) > 1e-2
        model.load_weights(folder / "model.weights.h5")
        assert same_bits(adapted, self.now())

    def is_ejected(self):
        keras_lora.eject(self.model)
        self.before.assert_same(Facts(self.base))
        assert same_bits(self.base_outputs, outputs_of(self.base, self.x))

    def is_merged(self):
        """The layers are plain again; the largest difference is returned."""
        adapted = self.now()
        keras_lora.merge(self.base)
        self.before.assert_same(Facts(self.base), values=False)
        merged = self.now()
        assert difference(adapted, merged) <= rounding(adapted)
        return difference(adapted, merged)

    def refuses_to_merge(self, reason):
        before = Facts(self.model)
        with pytest.raises(ValueError, match=reason):
            keras_lora.merge(self.model)
        before.assert_same(Facts(self.model))

    def goes_through(self, folder, elsewhere, method, refusal=None):
        """Every law but the compiled ones, on one model.

        Args:
            folder: Where files go.
            elsewhere: The fixture.
            method: Name that `summary` shows.
            refusal: Why `merge` refuses it; None where it does not.
        """
        self.starts_as_the_base()
        self.trains_alone(eagerly=True)
        self.filled()
        self.is_shown(method)
        self.is_switched_off_and_on()
        self.is_the_same_from_its_file(folder, elsewhere)
        adapted = self.now()
        if refusal:
            self.refuses_to_merge(refusal)
        self.is_ejected()
        self.with_values()
        assert difference(adapted, self.now()) <= rounding(adapted)

    def holds_compiled(self):
        """`predict` and `fit` in compiled functions that are not stale."""
        model, x = self.model, self.x
        plain = predictions_of(model, x)
        self.inject()
        calls = count_calls(model)
        fresh = predictions_of(model, x)
        traces = len(calls)
        assert same_bits(self.outputs, self.now())

        set_random(self.base.trainable_variables, seed=5, size=0.2)
        assert difference(self.outputs, self.now()) > 1e-2
        calls.clear()
        on = predictions_of(model, x)
        with keras_lora.disabled(model):
            off = predictions_of(model, x)
        again = predictions_of(model, x)
        assert traces and (TORCH or not calls)
        with keras_lora.disabled(model):
            assert same_bits(self.base_outputs, outputs_of(self.base, x))

        assert difference(plain, fresh) <= rounding(fresh)
        assert same_bits(fresh, off)
        assert difference(on, off) > 1e-3
        assert same_bits(on, again)
        self.trains_alone(eagerly=False)


class Contract:
    """The laws for one method; a subclass is all that a new one needs.

    Attributes:
        method: The name that `summary` and the file give it.
        configs: By name, what makes a config for a kind of model. Of the first
            a default run tests every law on several kinds of models, of the
            others on one; the extra tests are for all of them.
        fixed: Names of adapter weights that do not train.
        refusal: Why `merge` refuses it; None where it does not.
    """

    method: str
    configs: dict
    fixed: tuple[str, ...] = ()
    refusal: str | None = None

    def pytest_generate_tests(self, metafunc):
        asked = {"config", "name"} & set(metafunc.fixturenames)
        first, *_ = self.configs
        every = [(config, name) for config in self.configs for name in ALL]
        if asked == {"config"}:
            metafunc.parametrize("config", self.configs)
        elif metafunc.function.__name__.endswith("compiled"):
            quick = [(config, "functional") for config in self.configs]
            metafunc.parametrize(("config", "name"), pairs(quick, every))
        elif asked:
            quick = [(first, name) for name in QUICK]
            # Each of the other configs with another kind of model.
            for number, config in enumerate(self.configs):
                quick.append((config, ALL[-1 - number % len(ALL)]))
            metafunc.parametrize(("config", "name"), pairs(quick, every))

    def case(self, config, name):
        return Case(name, self.configs[config], self.fixed)

    def test_every_law_holds(self, config, name, tmp_path, elsewhere):
        case = self.case(config, name)
        case.goes_through(tmp_path, elsewhere, self.method, self.refusal)
        if name in ("functional", "attention"):
            case.is_saved_by_keras(tmp_path)
        if self.refusal is None:
            case.is_merged()

    def test_the_laws_hold_compiled(self, config, name):
        self.case(config, name).holds_compiled()

    def test_rows_of_a_bank_are_those_of_their_own_models(
        self, config, tmp_path
    ):
        kind = KINDS["functional"].placed(alone)
        base, x = kind.base(), kind.inputs()
        plain = call(base, x)
        tasks = {
            name: make_task(
                base,
                tmp_path / name,
                self.configs[config](kind),
                x,
                head=head,
                seed=ord(name),
            )
            for name, head in (("a", None), ("b", None), ("c", with_head))
        }
        with served(base) as bank:
            for name, task in tasks.items():
                bank.load(name, task.path)
            for names in (["a", None, "b", "c"], ["c", "b", "a", "a"]):
                rows = bank.predict(x, adapter=names)
                assert_rows(rows, names, tasks, plain)
        assert same_bits([plain], [call(base, x)])


def with_head(base):
    head = keras.layers.Dense(2, name="top")
    return keras.Model(base.input, head(base.output))
