"""Structural paths: the same names whatever was built before."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers

from keras_lora.model.paths import (
    join,
    own_variables,
    sibling_names,
    snake_case,
    structural_paths,
)
from keras_lora.model.surgery import every_layer


def paths(model):
    return [path for path in structural_paths(model) if path]


@pytest.mark.parametrize("number", [0, 3])
def test_automatic_names_are_numbers_among_siblings(number):
    keras.utils.clear_session()
    for _ in range(number):
        layers.Dense(1)
    inner = keras.Sequential([layers.Dense(2), layers.Dense(2)])
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(3),
            layers.LayerNormalization(),
            layers.Dense(3),
            inner,
        ]
    )
    assert [p for p in paths(model) if "input" not in p] == [
        "dense",
        "layer_normalization",
        "dense_1",
        "sequential",
        "sequential/dense",
        "sequential/dense_1",
    ]


def test_given_names_stay_and_keep_automatic_ones_off():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(3, name="dense_1"),
            layers.Dense(3, name="stem"),
            layers.Dense(3, name="dense_7"),
            layers.Dense(3, name="my_dense"),
        ]
    )
    found = structural_paths(model)
    names = [p for p in paths(model) if "input" not in p]
    assert names == ["dense", "stem", "dense_1", "my_dense"]
    assert found["dense"].name == "dense_1"
    assert found["stem"].name == "stem"


def test_equal_names_are_numbered_in_order():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.a = layers.Dense(2, name="same")
            self.b = layers.Dense(2, name="same")
            self.c = layers.Dense(2, name="same_1")
            self.d = layers.Dense(2, name="same")

        def call(self, x):
            return self.d(self.c(self.b(self.a(x))))

    model = Model()
    model(np.ones((1, 2)))
    found = structural_paths(model)
    assert len(found) == 5
    by_layer = {id(layer): path for path, layer in found.items()}
    order = [by_layer[id(la)] for la in (model.a, model.b, model.c, model.d)]
    assert order[0] == "same"
    assert len(set(order)) == 4


def test_a_shared_layer_is_listed_once():
    shared = layers.Dense(4)
    inner = keras.Sequential([keras.Input((4,)), shared])
    i = keras.Input((4,))
    model = keras.Model(i, inner(shared(shared(i))))
    found = structural_paths(model)
    assert [p for p, la in found.items() if la is shared] == ["dense"]


def test_lists_dicts_and_nested_models_are_reached():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.blocks = [layers.Dense(2), layers.Dense(2)]
            self.ways = {"left": layers.Dense(2, name="left")}
            self.tower = keras.Sequential([layers.Dense(2)], name="tower")

        def call(self, x):
            for block in (*self.blocks, self.ways["left"], self.tower):
                x = block(x)
            return x

    model = Model()
    model(np.ones((1, 2)))
    assert [p for p in paths(model) if "input" not in p] == [
        "dense",
        "dense_1",
        "left",
        "tower",
        "tower/dense",
    ]


def test_the_path_of_a_model_alone_and_nested_is_the_same():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    alone = paths(inner)
    outer = keras.Sequential([inner, layers.Dense(2)])
    assert [
        path.removeprefix("sequential/")
        for path in paths(outer)
        if path.startswith("sequential/")
    ] == alone


def test_a_cycle_ends():
    class Block(layers.Layer):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(2)

    one, two = Block(), Block()
    one.other, two.other = two, one
    found = list(structural_paths(one).values())
    assert len(found) == 4
    assert [id(la) for la in every_layer(one)] == [id(la) for la in found]


def test_variables_of_one_layer_have_names_of_their_own():
    layer = layers.Layer()
    for name in ("w", "w", "w_1", "w"):
        layer.add_weight(shape=(1,), name=name)
    names = list(own_variables(layer))
    assert len(set(names)) == 4
    assert names[0] == "w"


def test_adapter_weights_are_not_the_layer_s_own():
    import keras_lora

    layer = keras_lora.LoRADense(3, rank=2)
    layer.build((None, 4))
    assert list(own_variables(layer)) == ["kernel", "bias"]


class Named:
    """Stands for a layer with a name of its own or an automatic one."""

    def __init__(self, name):
        self.name = name


@given(st.lists(st.sampled_from(["named", "named_1", "named_9", "a", "a_1"])))
def test_names_of_siblings_differ(names):
    found = sibling_names([Named(name) for name in names])
    assert len(set(found)) == len(names)


@given(st.lists(st.integers(0, 99), unique=True))
def test_numbers_of_automatic_names_do_not_matter(numbers):
    found = sibling_names([Named(f"named_{number}") for number in numbers])
    assert (
        found
        == ["named", *[f"named_{n}" for n in range(1, len(found))]][
            : len(found)
        ]
    )


def test_stems_are_those_of_keras():
    for cls in (
        layers.Dense,
        layers.EinsumDense,
        layers.Conv2D,
        layers.GRU,
        layers.BatchNormalization,
        layers.GlobalAveragePooling1D,
        layers.ELU,
    ):
        options = {"units": 1} if cls in (layers.Dense, layers.GRU) else {}
        if cls is layers.EinsumDense:
            options = {"equation": "ab,bc->ac", "output_shape": 3}
        if cls is layers.Conv2D:
            options = {"filters": 1, "kernel_size": 1}
        name = cls(**options).name
        assert name.rstrip("0123456789_") in snake_case(cls.__name__)
        assert name.startswith(snake_case(cls.__name__))


def test_paths_are_joined_without_the_root():
    assert join("", "a", "", "b") == "a/b"
    assert join("") == ""
