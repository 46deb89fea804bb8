"""Models and a bank that hostile files are given to."""

import collections
import faulthandler
import os
import time
from pathlib import Path

import keras
import numpy as np
from keras import layers

import keras_lora
from keras_lora import AdapterConfig, DoRAConfig, IA3Config, LoRAConfig

LIBRARY = os.path.dirname(keras_lora.__file__)
HANGS_AFTER = 120
LONGEST_MESSAGE = 1 << 20


def make_base():
    """A small base: two layers that carry LoRA and a norm between them."""
    keras.utils.set_random_seed(3)
    i = keras.Input((6,))
    y = layers.Dense(8, activation="tanh", name="stem")(i)
    y = layers.BatchNormalization(name="norm")(y)
    return keras.Model(i, layers.Dense(4, name="branch")(y))


def with_head(base):
    """A base with the head that the good files have."""
    top = [layers.Dropout(0.1), layers.Dense(3), layers.LayerNormalization()]
    return keras.Sequential([base, *top])


GOOD = {
    "lora": lambda base: keras_lora.inject(base, LoRAConfig(2)),
    "bottleneck": lambda base: keras_lora.inject(
        base, AdapterConfig(3, targets=["stem", "norm"], layer_norm=True)
    ),
    "trained": lambda base: keras_lora.inject(
        base, LoRAConfig(2, targets=["branch"]), train=["norm"]
    ),
    "dora": lambda base: keras_lora.inject(base, DoRAConfig(2)),
    "ia3": lambda base: keras_lora.inject(base, IA3Config("all-linear")),
    "parallel": lambda base: keras_lora.inject(
        base,
        AdapterConfig(3, targets=["stem"], placement="parallel", scale=2.0),
    ),
}


def fill(variables, seed):
    generator = np.random.default_rng(seed)
    for variable in variables:
        size = tuple(variable.shape)
        variable.assign(0.3 * generator.normal(size=size).astype("float32"))


def state(model):
    """All of a model that a refused file must not change."""
    return [
        (type(layer), layer.name, [v.path for v in layer.weights])
        for layer in model._flatten_layers()
    ] + [keras.ops.convert_to_numpy(v).tobytes() for v in model.weights]


def is_own(error):
    """Whether an error is a `ValueError` that keras_lora itself raised."""
    last = error.__traceback__
    while last.tb_next is not None:
        last = last.tb_next
    file = last.tb_frame.f_code.co_filename
    return type(error) is ValueError and file.startswith(LIBRARY + os.sep)


class Finding(Exception):
    """An input that did what none may do."""


class Arena:
    """Models and a bank to load files into, and what they are before.

    Args:
        folder: Where files are written.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        self.file = self.folder / "input.safetensors"
        self.outcomes = collections.Counter()
        self.slowest = {}
        self.x = np.random.default_rng(0).normal(size=(4, 6)).astype("f4")
        self.prepare()

    def prepare(self):
        """Makes all models and the bank anew, as after a finding."""
        self.good, self.models, self.states = {}, {}, {}
        for number, (name, adapt) in enumerate(GOOD.items()):
            model = self.models[name] = with_head(make_base())
            adapt(model.layers[0])
            fill(model.trainable_variables, number + 1)
            path = self.folder / f"{name}.safetensors"
            keras_lora.save_adapter(model, path)
            self.good[name] = path.read_bytes()
            self.states[name] = self.state(model)
        self.base = make_base()
        self.bare = self.state(self.base)
        self.bank_base = make_base()
        self.bank = keras_lora.AdapterBank(self.bank_base, 3)
        for name in ("lora", "bottleneck"):
            plain = GOOD[name](make_base())
            fill(plain.trainable_variables, 9)
            keras_lora.save_adapter(plain, self.folder / name)
            self.bank.load(name, self.folder / name)
        self.bank.load("other", self.folder / "lora")
        self.answers = self.ask()

    def state(self, model):
        """A model's weights and classes, and what it answers."""
        return [*state(model), self.call(model).tobytes()]

    def call(self, model):
        return np.asarray(model.predict_on_batch(self.x))

    def ask(self):
        """What the bank answers: base, two adapters and one under change."""
        rows = [None, "lora", "bottleneck", "other"]
        got = self.bank.predict(self.x, adapter=rows)
        return [np.asarray(row).tobytes() for row in got]

    def doors(self, name, bare):
        """What an input is given to."""
        doors = {
            "inspect_adapter": self.inspect,
            "load_adapter": lambda: self.load(name),
            "AdapterBank.load": self.serve,
        }
        if bare:
            doors["load_adapter, bare base"] = self.load_bare
            doors["combine"] = self.combine
        return doors

    def give(self, kind, data, name="lora", bare=False):
        """Gives an input to every door; raises a `Finding` if one fails.

        Args:
            kind: What the counts are kept by.
            data: The file's bytes.
            name: The good file it was made of.
            bare: Whether a base without adapter is tried too.
        """
        self.file.write_bytes(data)
        for door, act in self.doors(name, bare).items():
            started = time.perf_counter()
            faulthandler.dump_traceback_later(HANGS_AFTER, exit=True)
            try:
                took = act()
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                what = "" if isinstance(error, Finding) else repr(error)
                raise Finding(f"{door}, {kind}: {what or error}") from error
            finally:
                faulthandler.cancel_dump_traceback_later()
            seconds = time.perf_counter() - started
            self.outcomes[kind, door, "loaded" if took else "refused"] += 1
            if seconds > self.slowest.get(door, (0, ""))[0]:
                self.slowest[door] = (round(seconds, 3), kind)

    def attempt(self, act):
        """Whether an action succeeded; it may only be refused otherwise."""
        try:
            act()
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            if not is_own(error):
                raise Finding(f"{type(error).__name__}: {error}") from error
            if not str(error).isprintable():
                lines = str(error).split("\n")
                if not all(line.isprintable() for line in lines):
                    raise Finding("a message with control codes") from error
            if len(str(error)) > LONGEST_MESSAGE:
                raise Finding("a message over a megabyte") from error
            return False
        return True

    def inspect(self):
        found = []
        if not self.attempt(
            lambda: found.append(keras_lora.inspect_adapter(self.file))
        ):
            return False
        text = str(found[0])
        if not all(line.isprintable() for line in text.split("\n")):
            raise Finding("a description with control codes")
        text.encode()
        if found[0].head is not None:
            self.attempt(found[0].build_head)
        return True

    def load(self, name):
        model = self.models[name]
        if not self.attempt(lambda: keras_lora.load_adapter(model, self.file)):
            if self.state(model) != self.states[name]:
                raise Finding("a refused file changed the model")
            return False
        self.call(model)
        keras_lora.load_adapter(model, self.folder / f"{name}.safetensors")
        if self.state(model) != self.states[name]:
            raise Finding("a good file does not bring the model back")
        return True

    def load_bare(self):
        took = self.attempt(
            lambda: keras_lora.load_adapter(self.base, self.file, head=False)
        )
        if took:
            with keras_lora.disabled(self.base):
                off = self.call(self.base)
            base = np.frombuffer(self.bare[-1], "f4").reshape(off.shape)
            if not np.allclose(off, base, rtol=0, atol=1e-5):
                raise Finding("`disabled` does not give the base's output")
            keras_lora.eject(self.base)
        if self.state(self.base) != self.bare:
            raise Finding("the base is not what it was")
        return took

    def combine(self):
        new = self.folder / "combined.safetensors"
        new.unlink(missing_ok=True)
        parts = [(self.file, 1.0), (self.folder / "lora.safetensors", -0.5)]
        if not self.attempt(lambda: keras_lora.combine(parts, new, head=False)):
            if new.exists():
                raise Finding("a file was written")
            return False
        keras_lora.inspect_adapter(new)
        return True

    def serve(self):
        bank = self.bank
        took = self.attempt(lambda: bank.load("other", self.file))
        answers = self.ask()
        if not took and answers != self.answers:
            raise Finding("a refused file changed the bank")
        if answers[:3] != self.answers[:3]:
            raise Finding("another row has changed")
        if took:
            bank.load("other", self.folder / "lora")
        return took
