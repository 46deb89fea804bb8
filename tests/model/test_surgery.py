"""The parts of Keras that surgery.py relies on are where it looks for them.

A failure here names what a new Keras has moved.
"""

import ast
import gc
import re
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers
from keras.src.models.functional import Functional
from keras.src.utils.tracking import Tracker

from keras_lora.model import compiled, graphs, surgery
from tests.helpers import normal, numpy_of


@pytest.fixture
def model():
    i = keras.Input((4,))
    y = layers.Dense(3, name="stem")(i)
    model = keras.Model(i, layers.Dropout(0.5)(layers.Dense(2)(y)))
    model.compile("sgd", "mse")
    return model


def one_layer():
    return model_of_two().get_layer("stem")


def model_of_two():
    i = keras.Input((4,))
    y = layers.Dense(3, name="stem")(i)
    return keras.Model(i, layers.Dense(2)(y))


PRIVATES = {
    # What surgery.py and graphs.py use: what has it, and of which type it is.
    "_layers": (one_layer, list),
    "_trainable_variables": (one_layer, list),
    "_non_trainable_variables": (one_layer, list),
    "_seed_generators": (one_layer, list),
    "_trainable": (one_layer, bool),
    "_convert_input_args": (one_layer, bool),
    "_is_default": (lambda: layers.Layer.build, bool),
    "_assert_compile_called": (model_of_two, Callable),
    "_build_shapes_dict": (one_layer, dict),
    "_tracker": (one_layer, Tracker),
    "_inbound_nodes": (one_layer, list),
    "_untrack_variable": (one_layer, Callable),
    "_unpickle_model": (lambda: layers.Layer, Callable),
    "_kernel": (one_layer, keras.Variable),
    "_embeddings": (lambda: built(layers.Embedding(3, 2)), keras.Variable),
    "_keras_history": (lambda: model_of_two().outputs[0], tuple),
    "_inputs_struct": (model_of_two, object),
    "_outputs_struct": (model_of_two, object),
    "_nodes_by_depth": (model_of_two, dict),
    "_functional": (
        lambda: keras.Sequential([keras.Input((2,)), layers.ReLU()]),
        Functional,
    ),
    "_backend_update_step": (lambda: keras.optimizers.SGD(), Callable),
}


def built(layer):
    layer.build((None, 3))
    return layer


@pytest.mark.parametrize("name", PRIVATES)
def test_keras_has_the_private(name):
    make, kind = PRIVATES[name]
    holder = make()
    assert hasattr(holder, name), f"Keras has moved {name}"
    found = getattr(holder, name)
    assert isinstance(found, kind), f"Keras has changed {name}: {type(found)}"


def privates_in(file):
    """Names with an underscore that a file takes from others than `self`."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Attribute):
            if ast.unparse(node.value) != "self":
                names.add(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.add(node.value)
    return {n for n in names if re.fullmatch("_[a-z]\\w+", n)}


def test_every_private_of_keras_is_in_the_table_and_in_two_files():
    mine = [Path(surgery.__file__), Path(graphs.__file__)]
    assert set.union(*map(privates_in, mine)) == set(PRIVATES)
    for file in mine[0].parents[1].rglob("*.py"):
        text = file.read_text("utf-8")
        if file not in mine:
            assert "keras.src" not in text, file.name
            assert not privates_in(file) & set(PRIVATES), file.name


@pytest.mark.parametrize("name", ["add_weight", "save_own_variables"])
def test_a_layer_can(name):
    assert callable(getattr(layers.Layer, name, None)), (
        f"Keras has moved Layer.{name}"
    )


@pytest.mark.parametrize("name", ["unlock", "lock", "untrack"])
def test_the_tracker_can(model, name):
    tracker = model.get_layer("stem")._tracker
    assert callable(getattr(tracker, name, None)), f"moved: Tracker.{name}"


def test_the_tracker_has_its_stores(model):
    layer = model.get_layer("stem")
    tracker = layer._tracker
    assert tracker.locked is True, "moved: Tracker.locked"
    for name in ("trainable_variables", "non_trainable_variables"):
        assert name in tracker.config, "moved: Tracker.config"
        store = tracker.config[name][1]
        assert store is getattr(layer, f"_{name}"), "moved: Tracker.config"
        ids = tracker.stored_ids[name]
        assert {id(v) for v in store} <= ids, "moved: Tracker.stored_ids"


def test_kernels_are_where_they_are_looked_for():
    tied = []
    if hasattr(layers, "ReversibleEmbedding"):  # as of Keras 3.12
        table = layers.ReversibleEmbedding(3, 2)
        tied = [(table, (None, 3), "_embeddings")]
    for layer, shape, name in (
        (layers.Dense(2), (None, 3), "_kernel"),
        (layers.EinsumDense("ab,bc->ac", 2), (None, 3), "_kernel"),
        (layers.Conv1D(2, 2), (None, 3, 3), "_kernel"),
        (layers.Conv2D(2, 2), (None, 3, 3, 3), "_kernel"),
        (layers.Conv3D(2, 2), (None, 3, 3, 3, 3), "_kernel"),
        (layers.Embedding(3, 2), (None, 3), "_embeddings"),
        *tied,
    ):
        layer.build(shape)
        assert isinstance(getattr(layer, name, None), keras.Variable), (
            f"Keras has moved {type(layer).__name__}.{name}"
        )
        assert surgery.kernel_of(layer) is getattr(layer, name)


def test_a_convolution_computes_with_the_kernel_in_its_attribute():
    layer = layers.Conv1D(2, 1, use_bias=False)
    x = normal(1, 3, 2)
    layer(x)
    kernel = np.ones((1, 2, 2), "float32")
    twin = surgery.view(layer, layers.Conv1D, _kernel=kernel)
    expected = np.repeat(x.sum(-1, keepdims=True), 2, -1)
    np.testing.assert_allclose(numpy_of(twin.call(x)), expected, rtol=1e-5)


@pytest.mark.parametrize("name", compiled.CACHED_FUNCTIONS[:3])
def test_a_compiled_model_keeps(model, name):
    assert hasattr(model, name), f"Keras has moved Model.{name}"


def test_a_model_that_forgot_asks_for_compile(model):
    x, y = normal(2, 4), normal(2, 2)
    model.fit(x, y, verbose=0)
    model.predict(x, verbose=0)
    compiled.forget_compiled([model.get_layer("stem")])
    assert model.compiled is False
    assert model.train_function is model.predict_function is None
    with pytest.raises(ValueError, match="compile"):
        model.fit(x, y, verbose=0)
    model.compile("sgd", "mse")
    model.fit(x, y, verbose=0)


def test_an_outer_model_that_gc_freeze_hides_forgets(model):
    outer = keras.Sequential([model, layers.Dense(2)])
    outer.compile("sgd", "mse")
    gc.freeze()
    try:
        compiled.forget_compiled([model.get_layer("stem")])
    finally:
        gc.unfreeze()
    assert outer.compiled is False


def test_a_model_that_compiled_nothing_has_no_such_attribute(model):
    assert not hasattr(model, "generate_function")
    model.generate_function = len
    assert model.generate_function is len
    compiled.forget_compiled([model.get_layer("stem")])
    assert model.generate_function is None
    del model.generate_function
    assert not hasattr(model, "generate_function")


def test_what_a_caller_put_in_a_method_s_place_comes_back():
    layer = layers.Dense(3)
    layer.build((None, 2))
    plain, x = layer.call, normal(1, 2)
    layer.call = mine = lambda inputs: plain(inputs) + 1.0
    seen = []
    restore = surgery.record_calls(layer, lambda args, y: seen.append(y))
    numpy_y = numpy_of(layer(x))
    restore()
    np.testing.assert_allclose(numpy_y, numpy_of(plain(x)) + 1.0)
    assert len(seen) == 1 and layer.__dict__["call"] is mine


def test_only_models_that_hold_a_layer_forget(model):
    other = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    other.compile("sgd", "mse")
    outer = keras.Sequential([model, layers.Dense(2)])
    outer.compile("sgd", "mse")
    compiled.forget_compiled([model.get_layer("stem")])
    assert other.compiled and not outer.compiled


def test_a_graph_is_read(model):
    tensor = model.outputs[0]
    names = []
    while True:
        operation, index, inputs = graphs.graph_source(tensor)
        names.append(operation.name)
        assert index == 0
        if not inputs:
            break
        (tensor,) = inputs
    assert names[0].startswith("dropout")
    assert names[-2] == "stem"
    assert graphs.has_graph(model)
    assert graphs.has_graph(keras.Sequential([model, layers.ReLU()]))
    assert not graphs.has_graph(keras.Sequential([layers.Dense(2)]))


def test_a_mask_is_kept():
    table = layers.Embedding(5, 2, mask_zero=True)
    y = table(np.array([[1, 0]]))
    z = graphs.keep_mask(y, y + 1.0)
    assert numpy_of(z._keras_mask).tolist() == [[True, False]]


def test_a_weight_is_added_to_a_built_layer_and_taken_off_again(model):
    layer = model.get_layer("stem")
    before = [id(v) for v in layer.weights]
    added = surgery.add_weight(layer, name="extra", shape=(2,))
    assert [id(v) for v in layer.weights] == [*before, id(added)]
    assert any(v is added for v in layer.trainable_weights)
    assert added.dtype == "float32"
    surgery.remove_weight(layer, added)
    assert [id(v) for v in layer.weights] == before
    with pytest.raises(ValueError, match="locked|cannot add"):
        layer.add_weight(name="late", shape=(2,))


def test_a_view_shares_state_and_changes_nothing(model):
    layer = model.get_layer("stem")
    state = dict(vars(layer))
    twin = surgery.view(layer, layers.Dense, activation=None, bias=None)
    assert twin.kernel is layer.kernel
    assert vars(layer) == state
    assert surgery.view(layer, layers.Dense, twin) is twin
    assert vars(twin) == state


def test_shapes_of_a_build_are_known(model):
    layer = model.get_layer("stem")
    assert surgery.build_shape(layer) == [None, 4]
    (tensor,) = graphs.build_inputs(layer)
    assert tuple(tensor.shape) == (None, 4)
    fresh = layers.Dense(3)
    assert surgery.build_shape(fresh) is None
    assert graphs.build_inputs(fresh) == []


def test_a_layer_that_is_built_later_is_told():
    layer = layers.Dense(3)
    told = []
    surgery.when_built(layer, lambda: told.append(layer.built))
    layer(normal(2, 4))
    layer(normal(2, 4))
    assert told == [True]
