"""The two methods in pictures and few words; it needs no base."""

import streamlit as st

from app.views import docs
from app.views.literal import literal

CODE = """import keras
import numpy as np

import keras_lora

x = np.random.rand(64, 16)
y = np.random.randint(2, size=64)


def pretrained():  # stands for your model
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(32, "relu"), keras.layers.Dense(32)]
    return keras.Sequential([keras.Input((16,)), *layers])


base = pretrained()
keras_lora.inject(base, keras_lora.LoRAConfig(rank=8))  # freezes the base
model = keras.Sequential([base, keras.layers.Dense(2)])
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile("adam", loss)
model.fit(x, y, epochs=3)  # as always
keras_lora.save_adapter(model, "task.safetensors")  # adapter and head

bank = keras_lora.AdapterBank(pretrained())
bank.load("task", "task.safetensors")
outputs = bank.predict(x[:2], adapter=["task", None])  # None: the bare base
"""

st.markdown(
    "A pretrained model is large, and what one task changes about it is small. "
    "keras_lora freezes the model and trains only a small part beside it."
)
st.header("LoRA: a low-rank update beside a kernel", anchor=False)
st.image(
    docs.drawing("lora"),
    alt="The input goes through W, and beside it through A and B",
)
st.markdown(
    "`W` is the layer's kernel, the matrix that it multiplies by. The layer "
    "still computes `x·W`, and adds `(x·A)·B · alpha / rank`. `A` is narrow "
    "and `B` starts at zero, so a fresh adapter changes nothing. At rank 8 a "
    "384 × 384 kernel gets 6,144 new weights beside its 147,456. "
    "[Hu et al. 2021](https://arxiv.org/abs/2106.09685)"
)
st.header("Bottleneck: a small network after a layer", anchor=False)
st.image(
    docs.drawing("bottleneck"),
    alt="A layer's output goes down, through relu, and up again",
)
st.markdown(
    "The output `y` becomes `y + up(relu(down(y)))`; `up` starts at zero. It "
    "cannot be folded into the kernel, as LoRA can by `merge`, but sits after "
    "layers of any kind. "
    "[Houlsby et al. 2019](https://arxiv.org/abs/1902.00751)"
)
st.header("The bank: every row with its own adapter", anchor=False)
st.image(
    docs.drawing("bank"),
    alt="Rows of different tasks go through one base together",
)
st.markdown(
    "An `AdapterBank` stacks the adapters beside one base. A switch is a "
    "number that goes along with each row: nothing is rebuilt or traced "
    "again, and the base is never changed."
)
st.header("In code", anchor=False)
st.code(CODE, language="python")
st.header("Read on", anchor=False)
pages = docs.pages()
title = st.selectbox(
    "A page of the documentation",
    list(pages),
    index=None,
    placeholder="Pick a page",
    key="guide",
)
if title is not None:
    with st.container(border=True):
        st.markdown(f"## {literal(title)}", anchors=False)
        st.markdown(docs.text_of(pages[title]))
st.caption(
    "All of it lies in the folder `docs/`; `mkdocs serve` shows it as a site."
)
