"""The laws of the design that no other file shows, each by its name."""

import hashlib
import itertools

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_lora
from keras_lora import AdapterConfig, LoRAConfig
from keras_lora.model import surgery
from tests.helpers import fill, normal, state
from tests.marks import pairs
from tests.models import (
    KINDS,
    Block,
    Head,
    Outer,
    alone,
    bert_backbone,
    bert_classifier,
    compile_for,
    count_calls,
    difference,
    features,
    first,
    fit,
    flattened_into,
    functional,
    hub,
    labels_for,
    nested_in,
    outputs_of,
    predictions_of,
    register,
    same_bits,
    sequence_on,
    sequential,
    set_random,
    to_tensors,
    tokens,
    values_of,
)

JAX = keras.backend.backend() == "jax"
TORCH = keras.backend.backend() == "torch"


def random(model, seed=0):
    set_random(model.weights, seed)
    return model


def with_head(base):
    """A subclassed model, whose graph nobody knows."""
    model = Outer(base, layers.Dense(2, name="top"))
    model(features(6))
    return model


OUTER = {
    "nested": lambda base: nested_in(base, features(6)),
    "flattened": lambda base: flattened_into(base, features(6)),
    "sequential": lambda base: sequence_on(base, features(6)),
    "subclassed": with_head,
    "alone": lambda base: base,
}
every_outer = pytest.mark.parametrize("outer", OUTER)


# 3. Everything trained is saved.


@every_outer
def test_head_is_saved_and_loaded_with_the_adapter(outer, tmp_path):
    def make():
        base = random(functional())
        return base, OUTER[outer](base)

    base, model = make()
    keras_lora.inject(base, LoRAConfig(2), train=["logits"])
    set_random(model.trainable_variables, seed=5, size=0.1)
    x, path = features(6), tmp_path / "task.safetensors"
    before = outputs_of(model, x)
    named = {"head": "top"} if outer == "subclassed" else {}

    keras_lora.save_adapter(model, path, **named)

    info = keras_lora.inspect_adapter(path)
    trained = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    assert info.parameters == trained
    assert (info.head is not None) == (outer != "alone")
    other_base, other = make()
    keras_lora.load_adapter(other, path)
    assert difference(before, outputs_of(other, x)) <= 1e-6
    if info.head is not None:
        # A bank over the bare base serves the head from the file alone.
        keras_lora.load_adapter(bare := random(functional()), path, head=False)
        rebuilt = info.build_head()(first(bare(to_tensors(x))))
        assert np.allclose(before[0], ops.convert_to_numpy(rebuilt), atol=1e-5)


def test_head_of_a_bert_classifier_is_saved_by_train(tmp_path):
    model = random(bert_classifier())
    x, path = tokens(with_segments=True), tmp_path / "task.safetensors"
    keras_lora.inject(model, LoRAConfig(2), train=["logits"])
    set_random(model.trainable_variables, seed=5, size=0.1)

    keras_lora.save_adapter(model, path)

    other = random(bert_classifier())
    keras_lora.load_adapter(other, path)
    assert same_bits(outputs_of(model, x), outputs_of(other, x))


def test_head_of_a_classifier_on_an_adapted_backbone_is_saved(tmp_path):
    keras_hub = hub()

    def make():
        backbone = random(bert_backbone())
        task = keras_hub.models.BertTextClassifier(
            backbone, num_classes=3, preprocessor=None
        )
        set_random(task.get_layer("logits").weights, 1)
        return backbone, task

    backbone, model = make()
    x, path = tokens(with_segments=True), tmp_path / "task.safetensors"
    keras_lora.inject(backbone, LoRAConfig(2, targets=["query", "value"]))
    set_random(model.trainable_variables, seed=5, size=0.1)

    keras_lora.save_adapter(model, path)

    _, other = make()
    keras_lora.load_adapter(other, path)
    assert same_bits(outputs_of(model, x), outputs_of(other, x))


def test_head_of_the_users_own_is_stored_as_weights_only(tmp_path):
    def make():
        base = random(functional())
        model = keras.Sequential([base, Head()])
        model.build((None, 6))
        return base, model

    base, model = make()
    keras_lora.inject(base, LoRAConfig(2))
    set_random(model.trainable_variables, seed=5, size=0.1)
    path = tmp_path / "task.safetensors"

    keras_lora.save_adapter(model, path)

    info = keras_lora.inspect_adapter(path)
    assert info.head is None and info.outside
    with pytest.raises(ValueError, match="no head that can be rebuilt"):
        info.build_head()
    _, other = make()
    keras_lora.load_adapter(other, path)
    x = features(6)
    assert same_bits(outputs_of(model, x), outputs_of(other, x))


def test_trainable_parts_around_a_base_are_saved_wherever_they_are(tmp_path):
    def make():
        base = random(functional())
        inputs = keras.Input((4,))
        x = base(layers.Dense(6, name="before")(inputs))
        x = layers.Concatenate()([x, layers.Dense(2, name="beside")(inputs)])
        return base, keras.Model(inputs, layers.Dense(2, name="after")(x))

    base, model = make()
    keras_lora.inject(base, LoRAConfig(2))
    set_random(model.trainable_variables, seed=5, size=0.1)
    path = tmp_path / "task.safetensors"

    keras_lora.save_adapter(model, path)

    _, other = make()
    keras_lora.load_adapter(other, path)
    x = features(4)
    assert same_bits(outputs_of(model, x), outputs_of(other, x))


def test_statistics_of_a_head_s_batch_normalization_are_saved(tmp_path):
    def make():
        base = random(functional())
        model = keras.Sequential(
            [base, layers.BatchNormalization(), layers.Dense(2)]
        )
        model.build((None, 6))
        return base, model

    base, model = make()
    keras_lora.inject(base, LoRAConfig(2))
    x, path = features(6), tmp_path / "task.safetensors"
    labels = labels_for(model, x)
    fit(compile_for(model, labels, eagerly=True), x, labels)

    keras_lora.save_adapter(model, path)

    _, other = make()
    keras_lora.load_adapter(other, path)
    assert same_bits(outputs_of(model, x), outputs_of(other, x))


def test_norms_named_in_train_are_saved_with_their_statistics(tmp_path):
    base = random(functional())
    norm = next(
        layer
        for layer in base.layers
        if isinstance(layer, layers.BatchNormalization)
    )
    x, path = features(6), tmp_path / "task.safetensors"
    plain, before = outputs_of(base, x), values_of(base.weights)
    statistics = values_of(norm.weights)
    keras_lora.inject(base, LoRAConfig(2), train=["batch_normalization"])
    labels = labels_for(base, x)
    fit(compile_for(base, labels, eagerly=True), x, labels)
    for old, new in zip(statistics, values_of(norm.weights), strict=True):
        assert not np.array_equal(old, new)

    keras_lora.save_adapter(base, path)

    other = keras_lora.load_adapter(random(functional()), path)
    assert same_bits(outputs_of(base, x), outputs_of(other, x))
    with keras_lora.disabled(other):
        assert same_bits(plain, outputs_of(other, x))
    keras_lora.eject(base)
    assert same_bits(before, values_of(base.weights))


def test_equal_weights_give_equal_bytes(tmp_path):
    paths = [tmp_path / name for name in ("a", "b", "c")]
    base = random(functional())
    model = nested_in(base, features(6))
    keras_lora.inject(base, LoRAConfig(2))
    set_random(model.trainable_variables, seed=5)
    keras_lora.save_adapter(model, paths[0])
    keras_lora.save_adapter(model, paths[1])
    # Another object, whose automatic names have other numbers.
    other = random(functional())
    outer = nested_in(other, features(6))
    keras_lora.load_adapter(outer, paths[0])
    keras_lora.save_adapter(outer, paths[2])

    digests = {hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}
    assert len(digests) == 1


# 4. The delta costs what it weighs, in float32 whatever the policy.


POLICIES = ("mixed_bfloat16", "bfloat16", "mixed_float16", "float16", "float64")


@pytest.mark.parametrize(
    ("policy", "method", "eagerly"),
    pairs(
        [
            *((policy, "lora", True) for policy in POLICIES),
            ("mixed_bfloat16", "lora", False),
            ("mixed_float16", "bottleneck", False),
        ],
        itertools.product(POLICIES, ("lora", "bottleneck"), (False,)),
    ),
)
def test_adapter_is_float32_under_every_policy(
    policy, method, eagerly, tmp_path
):
    if JAX and policy in ("mixed_float16", "float16"):
        pytest.skip("jax on a CPU has no float16 product summed in float32")

    def make():
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(policy)
        try:
            inputs = keras.Input((4, 6))
            x = layers.Dense(8, activation="tanh")(inputs)
            x = layers.MultiHeadAttention(2, 4, name="attention")(x, x)
            base = keras.Model(inputs, layers.Dense(3, name="last")(x))
        finally:
            keras.config.set_dtype_policy(before)
        return random(base)

    base, x = make(), features(4, 6)
    before = outputs_of(base, x)
    config = (
        LoRAConfig(2)
        if method == "lora"
        else AdapterConfig(3, targets=["attention", "last"])
    )
    keras_lora.inject(base, config)
    assert {v.dtype for v in base.trainable_variables} == {"float32"}
    assert same_bits(before, outputs_of(base, x))
    assert before[0].dtype == outputs_of(base, x)[0].dtype
    set_random(base.trainable_variables, seed=5, size=0.1)
    after = outputs_of(base, x)
    assert difference(before, after) > 1e-2
    labels = labels_for(base, x)
    frozen = values_of(base.non_trainable_variables)
    losses = fit(compile_for(base, labels, eagerly=eagerly), x, labels)
    assert np.all(np.isfinite(losses))
    assert same_bits(frozen, values_of(base.non_trainable_variables))
    path = tmp_path / "task.safetensors"
    keras_lora.save_adapter(base, path)
    other = keras_lora.load_adapter(make(), path)
    assert same_bits(outputs_of(base, x), outputs_of(other, x))
    # The checkpoint holds base weights of 16 bits as they are.
    base.save_weights(tmp_path / "model.weights.h5")
    other = keras_lora.inject(make(), config)
    other.load_weights(tmp_path / "model.weights.h5")
    assert same_bits(outputs_of(base, x), outputs_of(other, x))
    keras_lora.eject(base)
    assert same_bits(before, outputs_of(base, x))


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "bfloat16"])
def test_delta_is_not_rounded_into_a_16_bit_kernel(policy):
    base = keras.Sequential(
        [keras.Input((64,)), layers.Dense(64, dtype=policy)]
    )
    random(base)
    keras_lora.inject(base, LoRAConfig(2, alpha=2))
    a, b = base.trainable_variables
    rng = np.random.default_rng(3)
    a.assign(0.05 * rng.normal(size=a.shape))
    b.assign(0.02 * rng.normal(size=b.shape))
    x = features(64)
    # The delta of the rounded kernel would be off by a fifth; here what is
    # lost is lost in the sum with an output of 8 bits only.
    exact = x @ ops.convert_to_numpy(a) @ ops.convert_to_numpy(b)
    here = ops.convert_to_numpy(base.layers[0].delta(to_tensors(x)))

    assert np.max(np.abs(exact)) > 1e-3
    assert np.max(np.abs(here - exact)) < 1e-3 * np.max(np.abs(exact))


# 5. Compiled functions never go stale, and a switch is data.


def trains_again(model, x):
    """Whether the model asks for `compile`, and trains after it."""
    labels = labels_for(model, x)
    with pytest.raises(ValueError, match="compile"):
        fit(model, x, labels)
    before = values_of(model.trainable_variables)
    fit(compile_for(model, labels), x, labels)
    return difference(before, values_of(model.trainable_variables)) > 1e-4


@pytest.mark.parametrize("outer", pairs(["nested"], OUTER))
def test_compiled_models_ask_for_compile_after_every_change(outer):
    x = features(6)
    base = random(functional())
    model = OUTER[outer](base)
    labels = labels_for(model, x)
    fit(compile_for(model, labels), x, labels)
    predictions_of(model, x)

    keras_lora.inject(base, LoRAConfig(2))
    kernel = base.get_layer("stem").kernel
    frozen = values_of([kernel])
    assert trains_again(model, x)
    assert same_bits(frozen, values_of([kernel]))
    predictions_of(model, x)

    keras_lora.merge(model)
    assert difference(outputs_of(model, x), predictions_of(model, x)) <= 1e-5
    frozen = values_of([kernel])
    assert trains_again(model, x)
    assert not same_bits(frozen, values_of([kernel]))

    keras_lora.inject(base, LoRAConfig(2))
    assert trains_again(model, x)
    predictions_of(model, x)

    keras_lora.eject(model)
    assert difference(outputs_of(model, x), predictions_of(model, x)) <= 1e-5
    assert trains_again(model, x)


def test_load_adapter_on_a_plain_base_asks_for_compile(tmp_path):
    x, path = features(6), tmp_path / "task.safetensors"
    keras_lora.save_adapter(
        fill(keras_lora.inject(random(sequential()), LoRAConfig(2))), path
    )
    base = random(sequential())
    model = nested_in(base, x)
    labels = labels_for(model, x)
    # The base must not move, and yet the training function be there.
    still = keras.optimizers.SGD(0.0)
    fit(compile_for(model, labels, still), x, labels)
    before = predictions_of(model, x)

    keras_lora.load_adapter(model, path, head=False)

    assert difference(before, predictions_of(model, x)) > 1e-3
    assert trains_again(model, x)


def test_load_adapter_swaps_values_without_a_retrace(tmp_path):
    x = features(6)
    base = random(functional())
    model = keras_lora.inject(base, LoRAConfig(2), train=["logits"])
    paths = [tmp_path / "a", tmp_path / "b"]
    expected = []
    for seed, path in enumerate(paths):
        set_random(model.trainable_variables, seed, size=0.1)
        keras_lora.save_adapter(model, path)
        expected.append(outputs_of(model, x))
    labels = labels_for(model, x)
    fit(compile_for(model, labels), x, labels)
    model.predict(x, verbose=0)
    calls = count_calls(model)

    for path, outputs in zip(paths, expected, strict=True):
        keras_lora.load_adapter(model, path)
        assert model.compiled
        calls.clear()
        assert difference(outputs, predictions_of(model, x)) <= 1e-5
        assert TORCH or not calls
    assert difference(*expected) > 1e-2


def test_disabled_switches_a_compiled_fit_back_on():
    x = features(6)
    model = keras_lora.inject(random(functional()), LoRAConfig(2))
    labels = labels_for(model, x)
    fit(compile_for(model, labels), x, labels)
    before = values_of(model.trainable_variables)
    with keras_lora.disabled(model), keras_lora.disabled(model):
        model.predict(x, verbose=0)
    assert same_bits(before, values_of(model.trainable_variables))
    fit(model, x, labels)
    assert not same_bits(before, values_of(model.trainable_variables))


@pytest.mark.parametrize(
    "config",
    [
        LoRAConfig(2),
        LoRAConfig(2, init="svd"),
        keras_lora.DoRAConfig(2),
        AdapterConfig(3, targets=["dense"], layer_norm=True),
    ],
    ids=["lora", "svd", "dora", "bottleneck"],
)
def test_disabled_gives_the_base_whatever_the_adapter_holds(config):
    """Infinity times a zero is not zero: huge factors would leak through."""
    base = keras.Sequential([keras.Input((6,)), layers.Dense(4)])
    x = normal(5, 6)
    before = outputs_of(base, x)
    keras_lora.inject(base, config)
    kept = values_of(base.trainable_variables)
    for variable in base.trainable_variables:
        variable.assign(ops.full(variable.shape, 3e38))
    assert not np.isfinite(outputs_of(base, x)).any()
    with keras_lora.disabled(base):
        assert difference(before, outputs_of(base, x)) <= 1e-6
    assert not same_bits(kept, values_of(base.trainable_variables))
    assert not np.isfinite(outputs_of(base, x)).any()


# 6. A path is the identity.


@pytest.mark.parametrize(
    "name",
    [
        "sequential",
        "subclassed",
        "block_without_build",
        "shared_layer",
        "recurrent",
        "bert_backbone",
    ],
)
def test_files_are_interchangeable_between_two_builds(name, tmp_path):
    kind = KINDS[name].placed(alone)
    config = LoRAConfig(2, targets=kind.lora)
    x, path = kind.inputs(), tmp_path / "task.safetensors"
    one = kind.base()
    # Moves the counters of automatic names apart.
    for _ in range(2):
        layers.Dense(1), layers.LayerNormalization(), Block()
    other = kind.base()
    assert keras_lora.find_targets(one, kind.lora) == keras_lora.find_targets(
        other, kind.lora
    )
    fill(keras_lora.inject(one, config), scale=0.1)
    keras_lora.save_adapter(one, path)
    keras_lora.load_adapter(other, path)

    assert same_bits(outputs_of(one, x), outputs_of(other, x))


# 8. No silent loss.


@register
class Forgetful(layers.Layer):
    """Its config does not say how many layers it has."""

    def __init__(self, count=1, **kwargs):
        super().__init__(**kwargs)
        self.parts = [layers.Dense(6) for _ in range(count)]

    def build(self, shape):
        for part in self.parts:
            part.build(shape)

    def call(self, x):
        for part in self.parts:
            x = part(x)
        return x

    def get_config(self):
        return {"name": self.name}


def test_layers_of_an_adapter_that_a_config_cannot_rebuild_are_refused(
    tmp_path,
):
    model = keras.Sequential([keras.Input((6,)), Forgetful(3)])
    fill(keras_lora.inject(model, LoRAConfig(2)))
    file = tmp_path / "model.keras"

    with pytest.raises(ValueError, match="forgetful/dense_1: not among"):
        model.save(file)
        keras.saving.load_model(file)


def test_classes_given_at_load_time_come_back_adapted(tmp_path):
    class Unregistered(Block):
        pass

    model = keras.Sequential([keras.Input((3, 6)), Unregistered(6)])
    fill(keras_lora.inject(random(model), LoRAConfig(2)))
    x, file = features(3, 6), tmp_path / "model.keras"
    model.save(file)

    again = keras.saving.load_model(
        file, custom_objects={"Unregistered": Unregistered}
    )

    assert difference(outputs_of(model, x), outputs_of(again, x)) <= 1e-6
    with pytest.raises(TypeError, match="Unregistered"):
        keras.saving.load_model(file)


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5", ".h5"])
def test_switched_off_adapter_is_not_saved_by_keras_either(suffix, tmp_path):
    model = fill(keras_lora.inject(random(functional()), LoRAConfig(2)))
    before, file = values_of(model.weights), tmp_path / f"model{suffix}"
    save = model.save_weights if suffix == ".weights.h5" else model.save

    with (
        keras_lora.disabled(model),
        pytest.raises(ValueError, match="switched off"),
    ):
        save(file)

    assert same_bits(before, values_of(model.weights))


def test_weights_are_not_loaded_into_a_switched_off_adapter(tmp_path):
    model = fill(keras_lora.inject(random(functional()), LoRAConfig(2)))
    file = tmp_path / "model.weights.h5"
    model.save_weights(file)
    before = values_of(model.weights)

    with (
        keras_lora.disabled(model),
        pytest.raises(ValueError, match="switched off"),
    ):
        model.load_weights(file)

    assert same_bits(before, values_of(model.weights))


def test_legacy_h5_file_carries_the_adapter(tmp_path):
    model = fill(keras_lora.inject(random(functional()), LoRAConfig(2)))
    x, file = features(6), tmp_path / "model.h5"

    model.save(file)
    again = keras.saving.load_model(file)

    assert difference(outputs_of(model, x), outputs_of(again, x)) <= 1e-6
    assert adapted_layers(again) == adapted_layers(model)
    with keras_lora.disabled(model):
        plain = outputs_of(model, x)
    assert difference(plain, outputs_of(again, x)) > 1e-2


def test_clone_carries_the_adapter_with_values_of_its_own():
    model = fill(keras_lora.inject(random(functional()), LoRAConfig(2)))
    x = features(6)

    again = keras.models.clone_model(model)

    assert adapted_layers(again) == adapted_layers(model)
    assert difference(outputs_of(model, x), outputs_of(again, x)) > 1e-2
    again.set_weights(model.get_weights())
    assert difference(outputs_of(model, x), outputs_of(again, x)) <= 1e-6


def adapted_layers(model):
    return [(r.path, r.method, r.size) for r in keras_lora.summary(model).rows]


def test_disabled_needs_the_values_before_training(tmp_path):
    model = keras_lora.inject(
        random(functional()), LoRAConfig(2), train=["logits"]
    )
    set_random(model.trainable_variables, seed=5)
    file = tmp_path / "model.keras"
    model.save(file)
    again = keras.saving.load_model(file)
    before = values_of(again.weights)

    for door in (
        keras_lora.eject,
        lambda m: keras_lora.disabled(m).__enter__(),
    ):
        with pytest.raises(ValueError, match="not known here"):
            door(again)
    assert same_bits(before, values_of(again.weights))


def test_inject_that_runs_out_of_memory_leaves_the_model_as_it_was(
    monkeypatch,
):
    base = sequential()
    before = [v.path for v in base.weights]
    add_weight, count = surgery.add_weight, [0]

    def no_memory(*args, **kwargs):
        count[0] += 1
        if count[0] == 2:
            raise MemoryError
        return add_weight(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(surgery, "add_weight", no_memory)
        with pytest.raises(MemoryError):
            keras_lora.inject(base, LoRAConfig(rank=2))
    assert [v.path for v in base.weights] == before
    keras_lora.inject(base, LoRAConfig(rank=2))
    assert len(base.trainable_variables) > 2


@pytest.mark.parametrize(
    "top",
    [
        lambda y: layers.Dense(2)(layers.Dropout(0.1)(y)),
        lambda y: layers.Dense(2)(layers.Activation("tanh")(y)),
        lambda y: layers.Dense(2)(y[:, :2]),
    ],
)
def test_a_head_on_a_flattened_base_loads_and_is_saved_alike(top, tmp_path):
    def outer(seed):
        base = random(functional(), seed)
        return base, keras.Model(base.input, top(base.output))

    x, first, second = features(6), tmp_path / "a", tmp_path / "b"
    base, model = outer(0)
    keras_lora.inject(base, LoRAConfig(rank=2))
    set_random(model.trainable_variables, seed=1)
    keras_lora.save_adapter(model, first)
    assert keras_lora.inspect_adapter(first).head is not None
    _, other = outer(0)
    before = outputs_of(other, x)
    keras_lora.load_adapter(other, first)
    assert difference(outputs_of(other, x), outputs_of(model, x)) < 1e-6
    assert difference(outputs_of(other, x), before) > 1e-3
    keras_lora.save_adapter(other, second)
    assert first.read_bytes() == second.read_bytes()
    keras_lora.eject(other)


class Tied(layers.Layer):
    """Projects onto the rows of a table that another layer has."""

    def __init__(self, source, **kwargs):
        super().__init__(**kwargs)
        self.source = lambda: source  # Keras does not look into functions

    def build(self, shape):
        self.table = self.source().embeddings

    def call(self, x):
        return ops.matmul(x, ops.transpose(self.table))


def with_a_shared_weight():
    words = keras.Input((4,), dtype="int32")
    embedding = layers.Embedding(9, 6, name="words")
    x = layers.Dense(6, name="inner")(embedding(words))
    return random(keras.Model(words, Tied(embedding, name="tied")(x)))


def test_a_shared_weight_trains_after_eject_as_before():
    model = with_a_shared_weight()
    before = [v.trainable for v in model.weights]
    assert all(before)
    keras_lora.inject(model, LoRAConfig(rank=2))
    assert len(model.trainable_variables) == 2
    keras_lora.eject(model)
    assert [v.trainable for v in model.weights] == before


@pytest.mark.parametrize("train", [["tied"], ["words"]])
def test_one_of_two_layers_that_share_a_weight_is_not_trained(train):
    model = with_a_shared_weight()
    before = state(model)
    with pytest.raises(ValueError, match="words, tied share a weight"):
        keras_lora.inject(model, LoRAConfig(rank=2), train=train)
    assert state(model) == before
    both = ["tied", "words"]
    keras_lora.inject(model, LoRAConfig(rank=2), train=both)
    assert len(model.trainable_variables) == 3


def test_a_quantized_layer_is_not_trained_as_it_is():
    model = random(functional())
    last = [la.name for la in model.layers if isinstance(la, layers.Dense)][-1]
    model.quantize("int8")
    with pytest.raises(ValueError, match="quantized .int8."):
        keras_lora.inject(model, LoRAConfig(rank=2), train=[last])


@pytest.mark.parametrize("adapted", [False, True])
def test_failed_load_leaves_the_model_as_it_was(adapted, tmp_path):
    x, path = features(6), tmp_path / "task.safetensors"
    base = random(sequential())
    wide = keras.Sequential([base, layers.Activation("tanh"), layers.Dense(5)])
    wide.build((None, 6))
    keras_lora.inject(base, LoRAConfig(2))
    keras_lora.save_adapter(fill(wide), path)

    base = random(sequential())
    model = sequence_on(base, x)
    if adapted:
        fill(keras_lora.inject(base, LoRAConfig(2)), seed=9)
    labels = labels_for(model, x)
    still = keras.optimizers.SGD(0.0)
    fit(compile_for(model, labels, still), x, labels)
    before = state(model)

    # The head is of another shape: the last thing that is found out.
    with pytest.raises(ValueError, match="@head"):
        keras_lora.load_adapter(model, path)

    assert state(model) == before
    assert model.compiled
    fit(model, x, labels)


# 10. Merge is exact, and leaves the model where it refuses.


def test_merge_that_would_overflow_leaves_the_model():
    model = keras.Sequential(
        [keras.Input((6,)), layers.Dense(4, dtype="float16"), layers.Dense(3)]
    )
    keras_lora.inject(random(model), LoRAConfig(2))
    for variable in model.trainable_variables:
        variable.assign(ops.full(variable.shape, 300.0))
    before = state(model)

    with pytest.raises(ValueError, match="dense: .*not finite"):
        keras_lora.merge(model)

    assert state(model) == before


# 11. Training is `model.fit`: a frozen base stays in inference mode.


def test_dropout_of_an_adapter_acts_in_training_only():
    x = features(6)
    base = random(functional())
    plain = outputs_of(base, x)
    keras_lora.inject(base, LoRAConfig(2, dropout=0.5))
    assert same_bits(plain, outputs_of(base, x))
    fill(base)
    assert same_bits(outputs_of(base, x), outputs_of(base, x))

    def trained():
        y = base(to_tensors(x), training=True)
        return [np.array(ops.convert_to_numpy(ops.stop_gradient(y)))]

    assert difference(trained(), trained()) > 1e-3
    assert difference(trained(), outputs_of(base, x)) > 1e-3
    labels = labels_for(base, x)
    losses = fit(compile_for(base, labels), x, labels)
    assert len(set(losses)) == 2 and np.all(np.isfinite(losses))
    assert difference(outputs_of(base, x), predictions_of(base, x)) <= 1e-5


@pytest.mark.parametrize("whole", [False, True])
def test_flags_set_before_inject_do_not_matter_and_come_back(whole):
    def flags(model):
        return (
            [layer.trainable for layer in model._flatten_layers()],
            [variable.trainable for variable in model.weights],
        )

    base = random(functional())
    if whole:
        base.trainable = False
    else:
        base.get_layer("stem").trainable = False
        base.get_layer("branch").kernel.trainable = False
    before = flags(base)

    keras_lora.inject(base, LoRAConfig(2), train=["stem"])

    names = [v.path.partition("/")[0] for v in base.trainable_variables]
    assert names == ["stem"] * 2 + ["branch"] * 2 + ["logits"] * 2
    assert trains_again(base, features(6))
    keras_lora.eject(base)
    assert flags(base) == before
