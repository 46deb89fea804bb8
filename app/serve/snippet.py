"""A downloaded adapter in code: lines that run as they stand."""

from collections.abc import Sequence

TEMPLATE = """# In the project's folder, where `app` lies.
import numpy as np

import keras_lora
from app.texts.base import Tokenizer, load_base

labels = {labels}
texts = [
    {text},
]

bank = keras_lora.AdapterBank(load_base())
bank.load("task", {file})
outputs = bank.predict(Tokenizer()(texts), adapter="task")
for text, output in zip(texts, outputs):
    print(labels[int(np.argmax(output))], "-", text)
"""


def snippet(file: str, labels: Sequence[str], text: str) -> str:
    """Loads a file of an adapter of the demo's base, and asks it.

    Args:
        file: its name.
        labels: one for each class.
        text: what is asked.
    """
    return TEMPLATE.format(
        labels=repr(list(labels)), text=repr(text), file=repr(file)
    )
