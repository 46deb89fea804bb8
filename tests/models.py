"""Small models of every kind, alike in every process; no keras_lora here.

Each has random weights from a fixed seed, so that a model built in another
process of the same backend is the same base.
"""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

ROWS = 4
STEPS = 5
WORDS = 11
register = keras.saving.register_keras_serializable(package="tests")


@register
class Subclassed(keras.Model):
    """Layers in attributes, in a list and in a dict."""

    def __init__(self, width=8, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.stem = layers.Dense(width, activation="gelu")
        self.blocks = [layers.Dense(width), layers.Dense(width, use_bias=False)]
        self.ways = {
            "left": layers.Dense(width, activation="tanh"),
            "right": layers.BatchNormalization(),
        }
        self.last = layers.Dense(3)

    def call(self, x, training=None):
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        left = self.ways["left"](x)
        return self.last(left + self.ways["right"](x, training=training))

    def get_config(self):
        return {**super().get_config(), "width": self.width}


@register
class Block(layers.Layer):
    """Its sublayers are built by its `call`: it has no `build`."""

    def __init__(self, width=8, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.norm = layers.LayerNormalization()
        self.up = layers.Dense(2 * width, activation="relu")
        self.down = layers.Dense(width)

    def call(self, x):
        return x + self.down(self.up(self.norm(x)))

    def get_config(self):
        return {**super().get_config(), "width": self.width}


@register
class Head(layers.Layer):
    """A layer of the user's own that no adapter file may rebuild."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 2), name="kernel")

    def call(self, x):
        return ops.matmul(x, self.kernel)


@register
class Outer(keras.Model):
    """A subclassed model with a base and a head in attributes."""

    def __init__(self, base, head, **kwargs):
        super().__init__(**kwargs)
        self.base = base
        self.top = head

    def call(self, x, training=None):
        return self.top(self.base(x, training=training))

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "base": serialize(self.base),
            "head": serialize(self.top),
        }

    @classmethod
    def from_config(cls, config):
        for name in ("base", "head"):
            config[name] = keras.saving.deserialize_keras_object(config[name])
        return cls(**config)


def sequential():
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, activation="relu"),
            layers.Dense(8),
            layers.LayerNormalization(),
            layers.Dense(3, activation="tanh"),
        ]
    )


def functional():
    x = inputs = keras.Input((6,), name="features")
    x = layers.Normalization(mean=0.1, variance=2.0)(x)
    x = layers.Dense(8, activation="gelu", name="stem")(x)
    x = layers.Add()([x, layers.Dense(8, name="branch")(x)])
    x = layers.BatchNormalization()(x)
    return keras.Model(inputs, layers.Dense(3, name="logits")(x))


def with_nested_model():
    x = inner_inputs = keras.Input((8,))
    x = layers.Dense(8, activation="relu")(x)
    inner = keras.Model(inner_inputs, layers.Dense(8)(x), name="inner")
    inputs = keras.Input((6,))
    x = layers.Dense(8)(inputs)
    x = layers.BatchNormalization()(inner(x))
    tower = keras.Sequential([layers.Dense(4), layers.Dense(3)], name="tower")
    return keras.Model(inputs, tower(x))


def subclassed():
    model = Subclassed()
    model(np.zeros((1, 6), "float32"))
    return model


def block_without_build():
    x = inputs = keras.Input((STEPS, 6))
    x = layers.Dense(8)(x)
    x = Block()(x)
    x = Block()(x)
    return keras.Model(inputs, x)


def attention():
    x = inputs = keras.Input((STEPS, 8))
    y, scores = layers.MultiHeadAttention(2, 4, name="attention")(
        x, x, return_attention_scores=True
    )
    y = layers.BatchNormalization()(layers.Add()([x, y]))
    return keras.Model(inputs, [layers.Dense(3)(y), scores])


def grouped_query_attention():
    x = inputs = keras.Input((STEPS, 8))
    y = layers.GroupQueryAttention(4, 4, 2, name="attention")(x, x)
    return keras.Model(inputs, layers.Dense(3)(layers.Add()([x, y])))


def shared_layer():
    shared = layers.Dense(6, activation="tanh", name="shared")
    block = Block(6, name="shared_block")
    inputs = keras.Input((STEPS, 6))
    x = block(shared(inputs))
    x = layers.Add()([inputs, shared(x)])
    return keras.Model(inputs, layers.Dense(3)(block(x)))


def recurrent():
    inputs = keras.Input((STEPS,), dtype="int32")
    x = layers.Embedding(WORDS, 8)(inputs)
    x, state = layers.GRU(
        8, return_sequences=True, return_state=True, name="gru"
    )(x)
    x = layers.TimeDistributed(layers.Dense(4, activation="relu"))(x)
    x = layers.Bidirectional(layers.LSTM(4))(x)
    x = layers.Concatenate()([x, state])
    return keras.Model(inputs, layers.Dense(3)(x))


def convolutions():
    x = inputs = keras.Input((8, 8, 4))
    x = layers.Conv2D(
        6, 3, strides=2, padding="same", activation="relu", name="first"
    )(x)
    x = layers.BatchNormalization()(x)
    x = layers.Conv2D(4, 2, groups=2, name="grouped")(x)
    x = layers.DepthwiseConv2D(2)(x)
    x = layers.Reshape((-1, 4))(x)
    x = layers.Conv1D(6, 3, padding="causal", dilation_rate=2, name="causal")(x)
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(3)(x))


@functools.cache
def hub():
    """KerasHub; the test that asks is skipped where it does not import.

    A release of it needs a Keras of about its age.
    """
    try:
        import keras_hub
    except ImportError as error:
        return pytest.skip(f"KerasHub does not import: {error}")
    return keras_hub


def embedding():
    inputs = keras.Input((STEPS,), dtype="int32")
    x = layers.Embedding(WORDS, 8, mask_zero=True, name="table")(inputs)
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(3)(x))


def bert_backbone():
    keras_hub = hub()
    return keras_hub.models.BertBackbone(
        vocabulary_size=WORDS,
        num_layers=2,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=16,
        max_sequence_length=STEPS,
        num_segments=2,
        dropout=0.0,
    )


def bert_classifier():
    keras_hub = hub()
    return keras_hub.models.BertTextClassifier(
        bert_backbone(), num_classes=3, preprocessor=None, activation="softmax"
    )


def gpt2():
    keras_hub = hub()
    backbone = keras_hub.models.GPT2Backbone(
        vocabulary_size=WORDS,
        num_layers=2,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=16,
        max_sequence_length=2 * STEPS,
        dropout=0.0,
    )
    return keras_hub.models.GPT2CausalLM(backbone, preprocessor=None)


def gemma():
    keras_hub = hub()
    backbone = keras_hub.models.GemmaBackbone(
        vocabulary_size=WORDS,
        num_layers=1,
        num_query_heads=2,
        num_key_value_heads=1,
        hidden_dim=8,
        intermediate_dim=16,
        head_dim=4,
    )
    return keras_hub.models.GemmaCausalLM(backbone, preprocessor=None)


def alone(base, x):
    """The base itself."""
    return base


def nested_in(base, x):
    """The base as a layer of a bigger model, with a head on it."""
    inputs = {
        name: keras.Input(value.shape[1:], dtype=str(value.dtype), name=name)
        for name, value in (x if isinstance(x, dict) else {"x": x}).items()
    }
    y = first(base(inputs if isinstance(x, dict) else inputs["x"]))
    y = layers.Dense(4, activation="tanh", name="hidden")(y)
    y = layers.Dense(2, name="top")(y)
    return keras.Model(inputs if isinstance(x, dict) else inputs["x"], y)


def flattened_into(base, x):
    """The base's graph gone on with; no layer holds the base any more."""
    y = layers.Dense(4, activation="tanh", name="hidden")(first(base.output))
    return keras.Model(base.input, layers.Dense(2, name="top")(y))


def sequence_on(base, x):
    """The base first in a `Sequential`."""
    model = keras.Sequential(
        [base, layers.Activation("tanh"), layers.Dense(2, name="top")]
    )
    model.build((None, *x.shape[1:]))
    return model


def first(outputs):
    """The output that a head goes on."""
    if isinstance(outputs, dict):
        return outputs["pooled_output"]
    return outputs[0] if isinstance(outputs, list | tuple) else outputs


def features(*shape):
    rng = np.random.default_rng(1)
    return rng.normal(size=(ROWS, *shape)).astype("float32")


def words():
    return np.random.default_rng(1).integers(1, WORDS, (ROWS, STEPS), "int32")


def padded_words():
    found = words()
    found[0, 2:] = 0
    return found


def tokens(with_segments=False):
    mask = np.ones((ROWS, STEPS), "int32")
    mask[0, 3:] = 0
    found = {"token_ids": padded_words(), "padding_mask": mask}
    if with_segments:
        found["segment_ids"] = np.zeros((ROWS, STEPS), "int32")
    return found


@dataclass(frozen=True)
class Kind:
    """A kind of model.

    Attributes:
        build: Makes the base; call `base()` for one with random weights.
        inputs: Makes a batch.
        lora: Targets of `LoRAConfig`.
        outputs: Targets of `AdapterConfig`.
        train: Layers of the base to leave trainable.
        around: Makes the model that is trained, of the base and a batch.
    """

    build: Callable[[], Any]
    inputs: Callable[[], Any]
    lora: Any = "all-linear"
    outputs: Any = None
    train: tuple[str, ...] = ()
    around: Callable[[Any, Any], Any] = alone

    @property
    def needs_keras_hub(self):
        return self.build in (bert_backbone, bert_classifier, gpt2, gemma)

    def base(self, seed=0):
        base = self.build()
        set_random(base.weights, seed)
        return base

    def placed(self, around):
        """The same kind with another model around its base."""
        return dataclasses.replace(self, around=around)

    def model(self, base):
        """What is trained: the base, or a model around it."""
        model = self.around(base, self.inputs())
        mine = {id(v) for v in base.weights}
        set_random([v for v in model.weights if id(v) not in mine], 3)
        return model


KINDS = {
    "sequential": Kind(
        sequential,
        lambda: features(6),
        outputs=["dense", "layer_normalization"],
        train=("dense_2",),
    ),
    "functional": Kind(
        functional,
        lambda: features(6),
        outputs=["stem", "batch_normalization"],
        train=("logits",),
    ),
    "with_nested_model": Kind(
        with_nested_model,
        lambda: features(6),
        outputs=["inner", "tower/dense"],
    ),
    "nested": Kind(
        functional,
        lambda: features(6),
        outputs=["branch"],
        around=nested_in,
    ),
    "flattened": Kind(
        functional,
        lambda: features(6),
        outputs=["branch"],
        around=flattened_into,
    ),
    "in_sequential": Kind(
        functional,
        lambda: features(6),
        outputs=["branch"],
        around=sequence_on,
    ),
    "subclassed": Kind(
        subclassed,
        lambda: features(6),
        outputs=["dense", "batch_normalization"],
        train=("dense_4",),
    ),
    "block_without_build": Kind(
        block_without_build,
        lambda: features(STEPS, 6),
        outputs=["block/dense_1", "block_1"],
    ),
    "attention": Kind(
        attention, lambda: features(STEPS, 8), outputs=["attention"]
    ),
    "grouped_query_attention": Kind(
        grouped_query_attention,
        lambda: features(STEPS, 8),
        outputs=["attention"],
    ),
    "shared_layer": Kind(
        shared_layer,
        lambda: features(STEPS, 6),
        outputs=["shared", "shared_block"],
    ),
    "recurrent": Kind(
        recurrent, words, outputs=["gru", "time_distributed", "bidirectional"]
    ),
    "convolutions": Kind(
        convolutions,
        lambda: features(8, 8, 4),
        lora=["first", "grouped", "causal", "dense"],
        outputs=["first", "causal"],
    ),
    "embedding": Kind(
        embedding,
        padded_words,
        lora=["table", "dense"],
        outputs=["table"],
    ),
    "bert_backbone": Kind(
        bert_backbone,
        lambda: tokens(with_segments=True),
        outputs=["feedforward_output_dense", "transformer_layer_0"],
    ),
    "bert_classifier": Kind(
        bert_classifier,
        lambda: tokens(with_segments=True),
        lora=r".*/(query|value|feedforward_.*_dense)",
        train=("logits",),
    ),
    "gpt2": Kind(gpt2, tokens),
    "gemma": Kind(
        gemma,
        tokens,
        lora=["query", "value", "ffw_gating", "token_embedding"],
        outputs=["ffw_linear"],
    ),
}


def set_random(variables, seed=0, size=0.3):
    """Gives variables random values that keep a model well behaved."""
    rng = np.random.default_rng(seed)
    for variable in variables:
        if not str(variable.dtype).startswith(("float", "bfloat")):
            continue
        value = size * rng.normal(size=tuple(variable.shape))
        if variable.name in ("gamma", "scale", "variance", "moving_variance"):
            value = 1 + np.abs(value)
        variable.assign(value.astype("float32"))


def outputs_of(model, x):
    """Every output of a model run eagerly, as arrays."""
    return [to_numpy(y) for y in keras.tree.flatten(model(to_tensors(x)))]


def predictions_of(model, x):
    """Every output of `predict`, which is compiled."""
    return keras.tree.flatten(model.predict(x, verbose=0))


def count_calls(model):
    """Counts how often Python runs a model's `call` from now on.

    A compiled function runs it once, to trace it; torch runs it each time.
    """
    calls = []
    call = model.call

    @functools.wraps(call)
    def counted(*args, **kwargs):
        calls.append(1)
        return call(*args, **kwargs)

    model.__dict__["call"] = counted
    return calls


def to_tensors(x):
    return keras.tree.map_structure(ops.convert_to_tensor, x)


def to_numpy(tensor):
    return np.array(ops.convert_to_numpy(ops.stop_gradient(tensor)))


def values_of(variables):
    """Copies of the values of some variables."""
    return [np.array(ops.convert_to_numpy(v.value)) for v in variables]


def difference(some, others):
    """The largest difference between two lists of arrays of equal shapes."""
    pairs = list(zip(some, others, strict=True))
    assert pairs and all(a.shape == b.shape for a, b in pairs)
    return max(
        float(np.max(np.abs(a.astype("float64") - b.astype("float64"))))
        for a, b in pairs
    )


def rounding(arrays):
    """What 1e-5 is for values of about 1, for values of these arrays."""
    return 1e-5 * max(1.0, *(float(np.max(np.abs(a))) for a in arrays))


def same_bits(some, others):
    """Whether two lists of arrays are equal to the bit."""
    return len(some) == len(others) and all(
        a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
        for a, b in zip(some, others, strict=True)
    )


def labels_for(model, x):
    """Random labels in the structure of the model's outputs."""
    rng = np.random.default_rng(2)
    return keras.tree.map_structure(
        lambda y: rng.normal(size=tuple(y.shape)).astype("float32"),
        model(to_tensors(x)),
    )


def compile_for(model, labels, optimizer=None, eagerly=False):
    """Compiles with a mean squared error on each output.

    Most of a short `fit` is the tracing of its function; a test of what that
    does not change says `eagerly`. On JAX a `fit` without it takes longer.
    """
    eagerly = eagerly and keras.backend.backend() != "jax"
    loss = keras.tree.map_structure(lambda _: "mse", labels)
    optimizer = optimizer or keras.optimizers.Adam(0.05)
    # KerasHub's tasks would add metrics that take labels of another kind.
    model.compile(
        optimizer,
        loss=loss,
        metrics=[],
        weighted_metrics=[],
        run_eagerly=eagerly,
    )
    return model


def fit(model, x, labels, epochs=2):
    """Losses of some epochs without shuffling."""
    history = model.fit(
        x, labels, epochs=epochs, batch_size=2, shuffle=False, verbose=0
    )
    return history.history["loss"]
