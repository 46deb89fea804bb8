"""LoRA layers and `Adapter`, built by hand, against dense arithmetic."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_lora
from keras_lora.methods.lora.layers import lora_class
from keras_lora.model import surgery
from tests.helpers import fill, gradients, normal, numpy_of

BACKEND = keras.backend.backend()
EQUATIONS = {
    "matrix": ("ab,bc->ac", (6,), (5, 4)),
    "sequence": ("abc,cd->abd", (None, 6), (2, 5, 4)),
    "ellipsis": ("...x,xy->...y", (6,), (2, 3, 5, 4)),
    "ellipsis on the right": ("ab...,bc->ac...", (6, None), (2, 4, 3)),
    "query": ("bld,dhk->blhk", (None, 3, 2), (2, 5, 4)),
    "attention output": ("blhk,hkd->bld", (None, 6), (2, 5, 3, 2)),
    "permuted kernel": ("bld,hdk->blhk", (None, 3, 2), (2, 5, 4)),
    "permuted output": ("bld,dhk->bhlk", (3, None, 2), (2, 5, 4)),
    "one kernel a head": ("blhd,hdk->blhk", (None, 3, 5), (2, 4, 3, 2)),
    "one kernel a head, apart": ("bhd,dhk->bkh", (5, 3), (2, 3, 4)),
    "input axis summed": ("bld,dk->bk", (5,), (2, 3, 4)),
    "contracted whole": ("ab,b->a", (), (5, 4)),
    "letters of the rank": ("rab,bR->raR", (None, 6), (2, 5, 4)),
    "no common axis": ("ab,c->abc", (3, 6), (5, 3)),
}


def by_hand(layer, x, **options):
    """A built layer with a non-zero adapter, bias included."""
    y = layer(x, **options)
    if getattr(layer, "bias", None) is not None:
        layer.bias.assign(normal(*layer.bias.shape, seed=5))
    fill(layer)
    return y


def dense_reference(layer, x, **options):
    """The host's own output with the update added to its kernel."""
    host = layer._host_class.from_config(host_config(layer))
    host.build(layer._build_shapes_dict["input_shape"])
    for theirs, ours in zip(host.weights, own_weights(layer), strict=True):
        theirs.assign(ours)
    kernel = surgery.kernel_of(host)
    kernel.assign(numpy_of(kernel) + numpy_of(layer.delta_kernel()))
    return numpy_of(host(x, **options))


def host_config(layer):
    config = layer.get_config()
    return {
        key: value
        for key, value in config.items()
        if key not in layer.named_settings
    }


def own_weights(layer):
    return layer.weights[:-2]


def assert_equal_to_dense(layer, x, **options):
    zero = numpy_of(by_hand(layer, x, **options))
    expected = dense_reference(layer, x, **options)
    found = numpy_of(layer(x, **options))
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5)
    assert np.abs(found - zero).max() > 1e-3


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4), (2, 3, 2, 4)])
@pytest.mark.parametrize("activation", [None, "tanh"])
@pytest.mark.parametrize("use_bias", [True, False])
def test_dense_equals_a_merged_kernel(shape, activation, use_bias):
    layer = keras_lora.LoRADense(
        5, rank=2, alpha=3, activation=activation, use_bias=use_bias
    )
    assert_equal_to_dense(layer, normal(*shape))


@pytest.mark.parametrize("name", EQUATIONS)
@pytest.mark.parametrize("biased", [False, True])
def test_einsum_equals_a_merged_kernel(name, biased):
    equation, output_shape, shape = EQUATIONS[name]
    output = equation.split("->")[1]
    bias_axes = next((c for c in reversed(output[1:]) if c != "."), None)
    if biased and (bias_axes is None or name == "ellipsis on the right"):
        pytest.skip("this output has no axis for a bias")
    layer = keras_lora.LoRAEinsumDense(
        equation,
        output_shape,
        rank=2,
        alpha=3,
        activation="tanh",
        bias_axes=bias_axes if biased else None,
    )
    x = normal(*shape)
    assert_equal_to_dense(layer, x)
    np.testing.assert_allclose(
        numpy_of(layer(x, training=True)),
        numpy_of(layer(x, training=False)),
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize("bias_axes", ["h", "k", "hk"])
def test_einsum_with_any_bias_axes(bias_axes):
    layer = keras_lora.LoRAEinsumDense(
        "bld,dhk->blhk", (None, 3, 2), rank=2, bias_axes=bias_axes
    )
    x = normal(2, 5, 4)
    assert_equal_to_dense(layer, x)
    np.testing.assert_allclose(
        numpy_of(layer(x, training=True)),
        numpy_of(layer(x)),
        rtol=1e-5,
        atol=1e-6,
    )


def test_attention_projection_costs_6144_weights():
    query = keras_lora.LoRAEinsumDense("bld,dhk->blhk", (None, 12, 32), rank=8)
    query.build((None, None, 384))
    output = keras_lora.LoRAEinsumDense("blhk,hkd->bld", (None, 384), rank=8)
    output.build((None, None, 12, 32))
    for layer in (query, output):
        count = sum(int(np.prod(v.shape)) for v in layer.trainable_weights)
        assert count == 6144
    assert query.lora_a.shape == (384, 8)
    assert query.lora_b.shape == (8, 384)


@pytest.mark.parametrize("dtype", ["int32", "float32"])
def test_embedding_equals_a_merged_table(dtype):
    layer = keras_lora.LoRAEmbedding(11, 6, rank=2, alpha=3)
    assert_equal_to_dense(layer, np.array([[1, 10, 0], [4, 4, 2]], dtype))


def test_embedding_keeps_its_mask():
    layer = keras_lora.LoRAEmbedding(11, 6, rank=2, mask_zero=True)
    y = layer(np.array([[1, 2, 0]]))
    fill(layer)
    y = layer(np.array([[1, 2, 0]]))
    mask = ops.convert_to_numpy(y._keras_mask)
    assert mask.tolist() == [[True, True, False]]
    plain = keras.layers.Embedding(11, 6, mask_zero=True)
    pooled = keras.layers.GlobalAveragePooling1D()
    table = numpy_of(layer.embeddings) + numpy_of(layer.delta_kernel())
    plain.build((None, 3))
    plain.embeddings.assign(table)
    x = np.array([[1, 2, 0]])
    np.testing.assert_allclose(
        numpy_of(pooled(layer(x))), numpy_of(pooled(plain(x))), rtol=1e-4
    )


@pytest.mark.skipif(
    not hasattr(keras.layers, "ReversibleEmbedding"), reason="an older Keras"
)
@pytest.mark.parametrize("cap", [None, 2.0])
@pytest.mark.parametrize("tied", [True, False])
def test_tied_embedding_equals_a_merged_table_both_ways(cap, tied):
    tokens = keras.Input((None,), dtype="int32")
    table = keras.layers.ReversibleEmbedding(
        11, 6, tie_weights=tied, logit_soft_cap=cap
    )
    hidden = table(tokens)
    model = keras.Model(tokens, [hidden, table(hidden, reverse=True)])
    x = np.array([[1, 10, 0], [4, 4, 2]])
    base = [numpy_of(y) for y in model(x)]
    config = keras_lora.LoRAConfig(rank=2, targets=["reversible_embedding"])
    keras_lora.inject(model, config)
    assert isinstance(table, keras_lora.LoRAEmbedding)
    assert isinstance(table, keras.layers.ReversibleEmbedding)
    fill(model, 0.4)
    adapted = [numpy_of(y) for y in model(x)]
    keras_lora.merge(model)
    for before, unmerged, y in zip(base, adapted, model(x), strict=True):
        np.testing.assert_allclose(unmerged, numpy_of(y), rtol=1e-4, atol=1e-5)
        assert np.abs(unmerged - before).max() > 1e-3


CONVOLUTIONS = [
    (1, {}),
    (1, {"strides": 2, "padding": "same"}),
    (1, {"padding": "causal", "dilation_rate": 2}),
    (1, {"groups": 2}),
    (2, {"padding": "same"}),
    (2, {"strides": (2, 1), "use_bias": False, "activation": "relu"}),
    (2, {"dilation_rate": 2, "padding": "same"}),
    (2, {"groups": 2, "strides": 2, "padding": "same"}),
    (2, {"groups": 4, "kernel_size": (1, 3)}),
    (3, {"strides": 2, "padding": "same"}),
    (3, {"groups": 2}),
    (1, {"data_format": "channels_first"}),
    (2, {"data_format": "channels_first", "strides": 2, "groups": 2}),
    (3, {"data_format": "channels_first", "padding": "same"}),
]


def convolution(dimensions, kernel_size=3, **options):
    cls = getattr(keras_lora, f"LoRAConv{dimensions}D")
    return cls(4, kernel_size, rank=2, alpha=3, **options)


def can_run(layer, x):
    """Whether the backend runs the Keras layer itself, forward."""
    try:
        layer._host_class.from_config(host_config(layer))(x)
    except Exception as error:
        pytest.skip(f"Keras cannot run it on {BACKEND}: {error!s:.60}")


@pytest.mark.parametrize("dimensions,options", CONVOLUTIONS)
def test_convolution_equals_a_merged_kernel(dimensions, options):
    layer = convolution(dimensions, **options)
    first = options.get("data_format") == "channels_first"
    window = (7, 6, 5)[:dimensions]
    x = normal(*((2, 4, *window) if first else (2, *window, 4)))
    can_run(layer, x)
    assert_equal_to_dense(layer, x)


def trained_layers():
    return {
        "dense 2-D": (keras_lora.LoRADense(5, rank=2), (3, 4)),
        "dense 3-D": (
            keras_lora.LoRADense(5, rank=2, activation="tanh"),
            (2, 3, 4),
        ),
        "dense 4-D": (keras_lora.LoRADense(5, rank=2), (2, 2, 3, 4)),
        "dense, wide": (keras_lora.LoRADense(3, rank=2), (2, 3, 1024)),
        "dense, wide and of a high rank": (
            keras_lora.LoRADense(3, rank=17),
            (2, 3, 1024),
        ),
        "query": (
            keras_lora.LoRAEinsumDense(
                "bld,dhk->blhk", (None, 3, 2), rank=2, bias_axes="hk"
            ),
            (2, 5, 4),
        ),
        "attention output": (
            keras_lora.LoRAEinsumDense("blhk,hkd->bld", (None, 6), rank=2),
            (2, 5, 3, 2),
        ),
        "permuted": (
            keras_lora.LoRAEinsumDense("bld,hdk->blhk", (None, 3, 2), rank=2),
            (2, 5, 4),
        ),
        "one kernel a head": (
            keras_lora.LoRAEinsumDense("blhd,hdk->blhk", (None, 3, 5), rank=2),
            (2, 4, 3, 2),
        ),
        "convolution": (
            keras_lora.LoRAConv2D(4, 3, rank=2, padding="same"),
            (2, 5, 5, 4),
        ),
    }


@pytest.mark.parametrize("name", trained_layers())
def test_training_equals_inference_in_value_and_gradient(name):
    layer, shape = trained_layers()[name]
    x = keras.Variable(normal(*shape))
    options = {} if name == "convolution" else {"training": False}
    by_hand(layer, x + 0.0)
    variables = [x, layer.lora_a, layer.lora_b]

    def loss(training):
        if options:
            options["training"] = training
        y = layer(x + 0.0, **options)
        return weighted(y)

    def plain():
        kernel = surgery.kernel_of(layer)
        update = ops.matmul(
            ops.convert_to_tensor(layer.lora_a),
            ops.convert_to_tensor(layer.lora_b),
        )
        merged = kernel + layer._as_kernel(update * layer.lora_scale)
        return plain_loss(layer, x, merged)

    trained, untrained = loss(True), loss(False)
    np.testing.assert_allclose(
        numpy_of(trained), numpy_of(untrained), rtol=1e-4
    )
    np.testing.assert_allclose(numpy_of(trained), numpy_of(plain()), rtol=1e-4)
    fast = gradients(lambda: loss(True), variables)
    slow = gradients(lambda: loss(False), variables)
    automatic = gradients(plain, variables)
    for a, b, c in zip(fast, slow, automatic, strict=True):
        np.testing.assert_allclose(a, c, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(b, c, rtol=1e-3, atol=1e-4)
        assert np.abs(c).max() > 1e-3


def weighted(y):
    return ops.sum(y * ops.convert_to_tensor(normal(*y.shape, seed=7)))


def plain_loss(layer, x, merged):
    """The loss with a dense kernel that autodiff sees through."""
    host = surgery.view(layer, layer._host_class, _kernel=merged)
    y = host.call(x + 0.0)
    return weighted(y)


def test_fit_moves_the_adapter_alone():
    model = keras.Sequential(
        [keras.Input((5, 4)), keras_lora.LoRADense(3, rank=2)]
    )
    layer = model.layers[0]
    before = [numpy_of(v) for v in layer.weights]
    model.compile(keras.optimizers.Adam(0.1), "mse")
    model.fit(normal(8, 5, 4), normal(8, 5, 3), epochs=2, verbose=0)
    after = [numpy_of(v) for v in layer.weights]
    moved = [
        v.name
        for v, a, b in zip(layer.weights, before, after, strict=True)
        if not np.array_equal(a, b)
    ]
    assert moved == ["lora_a", "lora_b"]


SERIALIZED = {
    "LoRADense": (
        lambda: keras_lora.LoRADense(
            5, rank=2, alpha=3, dropout=0.1, activation="relu", name="mine"
        ),
        (4, 6),
    ),
    "LoRAEinsumDense": (
        lambda: keras_lora.LoRAEinsumDense(
            "bld,dhk->blhk", (None, 3, 2), rank=2, alpha=3, bias_axes="h"
        ),
        (4, 6),
    ),
    "LoRAConv1D": (
        lambda: keras_lora.LoRAConv1D(4, 3, rank=2, padding="causal"),
        (8, 4),
    ),
    "LoRAConv2D": (
        lambda: keras_lora.LoRAConv2D(4, 3, rank=2, strides=2),
        (8, 8, 4),
    ),
    "LoRAConv3D": (
        lambda: keras_lora.LoRAConv3D(4, (1, 2, 3), rank=2),
        (4, 4, 4, 2),
    ),
    "Adapter": (
        lambda: keras_lora.Adapter(
            3, activation="gelu", dropout=0.1, layer_norm=True
        ),
        (4, 6),
    ),
}


@pytest.mark.parametrize("name", SERIALIZED)
@pytest.mark.parametrize("kind", ["sequential", "functional"])
def test_round_trip(name, kind, tmp_path):
    make, shape = SERIALIZED[name]
    layer = make()
    if kind == "sequential":
        model = keras.Sequential([keras.Input(shape), layer])
    else:
        i = keras.Input(shape)
        model = keras.Model(i, layer(i))
    fill(model)
    assert_round_trip(model, layer, normal(2, *shape), tmp_path)


@pytest.mark.parametrize("kind", ["sequential", "functional"])
def test_round_trip_of_an_embedding(kind, tmp_path):
    layer = keras_lora.LoRAEmbedding(11, 6, rank=2, alpha=3, mask_zero=True)
    i = keras.Input((3,), dtype="int32")
    if kind == "sequential":
        model = keras.Sequential([i, layer])
    else:
        model = keras.Model(i, layer(i))
    fill(model)
    assert_round_trip(model, layer, np.array([[1, 2, 0]]), tmp_path)


def assert_round_trip(model, layer, x, tmp_path):
    config = layer.get_config()
    again = type(layer).from_config(config)
    assert again.get_config() == config
    expected = numpy_of(model(x))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded.layers[-1]) is type(layer)
    np.testing.assert_array_equal(numpy_of(loaded(x)), expected)
    names = [v.name for v in loaded.trainable_weights]
    assert names == [v.name for v in model.trainable_weights] and names
    model.save_weights(tmp_path / "model.weights.h5")
    other = keras.models.clone_model(model)
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(numpy_of(other(x)), expected)


def test_injected_layers_are_of_the_classes_built_by_hand():
    i = keras.Input((8, 8, 4))
    y = keras.layers.Conv2D(4, 3)(i)
    y = keras.layers.Reshape((36, 4))(y)
    y = keras.layers.Conv1D(4, 3)(y)
    y = keras.layers.Dense(4)(y)
    y = keras.layers.EinsumDense("abc,cd->abd", (None, 4))(y)
    model = keras.Model(i, y)
    targets = ["conv2d", "conv1d", "dense", "einsum_dense"]
    hosts = [la for la in model.layers if lora_class(la)]
    keras_lora.inject(model, keras_lora.LoRAConfig(2, targets=targets))
    for layer, cls in zip(
        hosts,
        [
            keras_lora.LoRAConv2D,
            keras_lora.LoRAConv1D,
            keras_lora.LoRADense,
            keras_lora.LoRAEinsumDense,
        ],
        strict=True,
    ):
        assert isinstance(layer, cls)
        assert isinstance(layer, cls._host_class)


POLICIES = ["mixed_bfloat16", "bfloat16", "mixed_float16", "float16", "float64"]
KINDS = ["dense", "einsum", "embedding", "convolution", "adapter"]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_float32_under_every_policy(policy, kind):
    if policy == "float64" and BACKEND == "jax":
        pytest.skip("jax keeps to 32 bits unless told otherwise")
    keras.config.set_dtype_policy(policy)
    try:
        layer, x = {
            "dense": (
                keras_lora.LoRADense(5, rank=2, dropout=0.1),
                normal(2, 3, 4),
            ),
            "einsum": (
                keras_lora.LoRAEinsumDense("abc,cd->abd", (None, 5), rank=2),
                normal(2, 3, 4),
            ),
            "embedding": (
                keras_lora.LoRAEmbedding(7, 5, rank=2),
                np.array([[1, 2]]),
            ),
            "convolution": (
                keras_lora.LoRAConv1D(5, 2, rank=2),
                normal(2, 3, 4),
            ),
            "adapter": (
                keras_lora.Adapter(3, layer_norm=True, dropout=0.1),
                normal(2, 3, 4),
            ),
        }[kind]
        layer(x)
        fill(layer)
        for training in (False, True):
            options = {} if kind == "embedding" else {"training": training}
            y = layer(x) if kind == "convolution" else layer(x, **options)
            assert keras.backend.standardize_dtype(y.dtype) == (
                layer.compute_dtype
            )
            assert np.isfinite(numpy_of(y)).all()
    finally:
        keras.config.set_dtype_policy("float32")
    for variable in layer.adapter_weights.values():
        assert variable.dtype == "float32"
    model = keras.Sequential([layer])
    dtypes = {keras.backend.standardize_dtype(v.dtype) for v in model.weights}
    assert "float32" in dtypes


def test_dropout_acts_on_the_adapter_in_training_only():
    layer = keras_lora.LoRADense(5, rank=2, dropout=0.5)
    x = np.ones((4, 64), "float32")
    by_hand(layer, x)
    once = numpy_of(layer(x, training=False))
    np.testing.assert_array_equal(once, numpy_of(layer(x, training=False)))
    first = numpy_of(layer(x, training=True))
    second = numpy_of(layer(x, training=True))
    assert np.abs(first - once).max() > 1e-3
    assert np.abs(first - second).max() > 1e-3
    layer.lora_b.assign(np.zeros(layer.lora_b.shape))
    np.testing.assert_allclose(
        numpy_of(layer(x, training=True)),
        numpy_of(layer(x, training=False)),
        rtol=1e-6,
    )


def test_dropout_keeps_float32_under_a_global_policy():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        adapter = keras_lora.Adapter(3, dropout=0.1, layer_norm=True)
        adapter.build((None, 4))
    finally:
        keras.config.set_dtype_policy("float32")
    x = ops.convert_to_tensor(normal(2, 4))
    assert "float32" in str(adapter.dropped(x).dtype)


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu", "linear"])
def test_adapter_equals_numpy(layer_norm, activation):
    layer = keras_lora.Adapter(3, activation=activation, layer_norm=layer_norm)
    x = normal(2, 5, 8)
    np.testing.assert_array_equal(numpy_of(layer(x)), x)
    fill(layer)
    w = {name: numpy_of(v) for name, v in layer.adapter_weights.items()}
    y = x
    if layer_norm:
        mean, spread = y.mean(-1, keepdims=True), y.var(-1, keepdims=True)
        y = (y - mean) / np.sqrt(spread + 1e-5)
        y = y * w["norm_gamma"] + w["norm_beta"]
    h = y @ w["down_kernel"] + w["down_bias"]
    h = numpy_of(keras.activations.get(activation)(ops.convert_to_tensor(h)))
    expected = x + h @ w["up_kernel"] + w["up_bias"]
    np.testing.assert_allclose(
        numpy_of(layer(x)), expected, rtol=1e-4, atol=1e-5
    )


def test_adapter_takes_its_width_from_the_reduction_factor():
    layer = keras_lora.Adapter(reduction_factor=4)
    layer.build((None, 8))
    assert layer.adapter_weights["down_kernel"].shape == (8, 2)
    narrow = keras_lora.Adapter()
    narrow.build((None, 8))
    assert narrow.adapter_weights["down_kernel"].shape == (8, 1)


def test_adapter_passes_a_mask_on():
    i = keras.Input((3,), dtype="int32")
    y = keras.layers.Embedding(11, 6, mask_zero=True)(i)
    y = keras_lora.Adapter(2)(y)
    y = keras.layers.GlobalAveragePooling1D()(y)
    model = keras.Model(i, y)
    fill(model)
    short = numpy_of(model(np.array([[1, 2, 0]])))
    long = numpy_of(model(np.array([[1, 2, 2]])))
    assert np.abs(short - long).max() > 1e-4
    table, adapter = model.layers[1:3]
    rows = numpy_of(adapter(table(np.array([[1, 2]]))))
    np.testing.assert_allclose(short, rows.mean(1), rtol=1e-4, atol=1e-6)


BAD = {"rank": (0, -1, 2.5, True, "8", None), "alpha": (0, -1, "a", np.nan)}


@pytest.mark.parametrize("name", BAD)
def test_bad_settings_are_refused(name):
    for value in BAD[name]:
        with pytest.raises(ValueError, match=f"`{name}`.*{name}="):
            keras_lora.LoRADense(4, **{name: value})
    for value in (1, 1.5, -0.1, "a", None):
        with pytest.raises(ValueError, match="`dropout`"):
            keras_lora.LoRAConv2D(4, 3, dropout=value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: keras_lora.LoRADense(4, rank=0, alpha=-1, dropout=2),
        lambda: keras_lora.LoRAEinsumDense(
            "ab,bc->ac", 4, rank=0, alpha=-1, dropout=2
        ),
        lambda: keras_lora.LoRAConv1D(4, 3, rank=0, alpha=-1, dropout=2),
    ],
)
def test_all_bad_settings_are_listed_at_once(make):
    with pytest.raises(ValueError) as error:
        make()
    for name in ("rank=0", "alpha=-1", "dropout=2"):
        assert name in str(error.value)


def test_all_bad_settings_of_an_adapter_are_listed_at_once():
    with pytest.raises(ValueError) as error:
        keras_lora.Adapter(0, -1, 3, dropout=1, layer_norm="yes")
    for name in (
        "bottleneck=0",
        "reduction_factor=-1",
        "activation=3",
        "dropout=1",
        "layer_norm='yes'",
    ):
        assert name in str(error.value)
    with pytest.raises(ValueError, match="no activation named 'rleu'"):
        keras_lora.Adapter(2, activation="rleu")


@pytest.mark.parametrize("trainable", [True, False])
def test_a_layer_not_built_yet_keeps_its_trainable_flag(trainable):
    layer = keras_lora.LoRADense(5, rank=2, trainable=trainable)
    assert layer.trainable is trainable
    again = keras_lora.LoRADense.from_config(layer.get_config())
    again.build((None, 4))
    assert len(again.trainable_weights) == 2 * trainable


@keras.saving.register_keras_serializable(package="tests")
class Queries(keras.layers.Layer):
    """Projects weights of its own, as learned queries do."""

    def build(self, input_shape):
        self.queries = self.add_weight(shape=(1, 3, 4), name="queries")
        self.dense = keras.layers.Dense(4)
        self.dense.build((1, 3, 4))

    def call(self, x):
        return ops.mean(self.dense(self.queries), axis=1) + x


def test_a_layer_may_be_called_on_a_variable_in_training():
    model = keras.Sequential([keras.Input((4,)), Queries()])
    x = normal(2, 4)
    before = numpy_of(model(x))
    keras_lora.inject(model, keras_lora.LoRAConfig(rank=2))
    fill(model)
    assert np.abs(numpy_of(model(x)) - before).max() > 1e-3
    model.compile("adam", "mse")
    model.fit(x, normal(2, 4), verbose=0)


@pytest.mark.parametrize("make", ["dense", "einsum"])
def test_many_vectors_give_what_few_do(make):
    """Many are multiplied once, by a kernel that is formed for them."""
    layer = {
        "dense": keras_lora.LoRADense(4, rank=2, activation="tanh"),
        "einsum": keras_lora.LoRAEinsumDense(
            "abc,cde->abde", (None, 2, 2), rank=2, bias_axes="e"
        ),
    }[make]
    x = normal(43, 3, 6)
    by_hand(layer, x)
    alone = [numpy_of(layer(x[n : n + 1])) for n in range(len(x))]
    few, many = np.concatenate(alone), numpy_of(layer(x))
    np.testing.assert_allclose(many, few, rtol=1e-5, atol=1e-5)
    model = keras.Sequential([keras.Input((3, 6)), layer])
    # The last batch, of 1, has too few.
    y = model.predict(x, batch_size=6, verbose=0)
    np.testing.assert_allclose(y, few, rtol=1e-5, atol=1e-5)
    layer.lora_b.assign(0 * layer.lora_b)
    plain = layer.host_call("call", ops.convert_to_tensor(x))
    np.testing.assert_array_equal(numpy_of(layer(x)), numpy_of(plain))
    assert np.abs(many - numpy_of(plain)).max() > 0.01
