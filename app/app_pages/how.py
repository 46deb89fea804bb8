"""The two methods in pictures and few words; it needs no base."""

import streamlit as st

from app.views import docs
from app.views.literal import literal

CODE = """from keras_lora import AdapterBank, LoRAConfig, inject, save_adapter

inject(base, LoRAConfig(rank=8))         # freezes the base, adds the adapter
model = keras.Sequential([base, head])   # then compile and fit, as always
save_adapter(model, "task.safetensors")  # the adapter and the head

bank = AdapterBank(another_copy_of_the_base)
bank.load("task", "task.safetensors")
bank.predict(x, adapter=["task", None])  # a name, or None, for each row
"""

st.markdown(
    "A pretrained model is large, and what one task changes about it is small. "
    "keras_lora freezes the model and trains only a small part beside it."
)
st.subheader("LoRA: a low-rank update beside a kernel")
st.image(
    docs.drawing("lora"),
    alt="The input goes through W, and beside it through A and B",
)
st.markdown(
    "The layer still computes `x·W`, and adds `(x·A)·B · alpha / rank`. `A` "
    "is narrow and `B` starts at zero: a fresh one changes nothing. At rank "
    "8 a 384 × 384 kernel gets 6,144 new weights beside its 147,456. "
    "[Hu et al. 2021](https://arxiv.org/abs/2106.09685)"
)
st.subheader("Bottleneck: a small network after a layer")
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
st.subheader("The bank: every row with its own adapter")
st.image(
    docs.drawing("bank"),
    alt="Rows of different tasks go through one base together",
)
st.markdown(
    "An `AdapterBank` stacks the adapters in slots. A switch is a number that "
    "goes along with each row: nothing is rebuilt or traced again, and the "
    "base is never changed."
)
st.subheader("In code")
st.code(CODE, language="python")
st.subheader("Read on")
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
        st.markdown(f"### {literal(title)}")
        st.markdown(docs.text_of(pages[title]))
st.caption(
    "All of it lies in the folder `docs/`; `mkdocs serve` shows it as a site."
)
