"""The kinds of adapter there are: one file or folder each, and one table."""

from typing import Any

from keras_lora.methods.bottleneck import BOTTLENECK, PARALLEL
from keras_lora.methods.dora import DORA
from keras_lora.methods.ia3 import IA3
from keras_lora.methods.lora import LORA, PISSA
from keras_lora.methods.method import Method
from keras_lora.methods.side import SIDE

METHODS = {
    method.name: method
    for method in (LORA, DORA, PISSA, IA3, BOTTLENECK, PARALLEL, SIDE)
}
"""Every method by its name; one of your own is one more entry."""


def method_of(config: Any) -> Method:
    """The method of a config.

    Raises:
        ValueError: It is none.
    """
    name = getattr(config, "method", None)
    method = METHODS.get(name) if isinstance(name, str) else None
    if method is not None and isinstance(config, method.config):
        return method
    names = [m.config.__name__ for m in METHODS.values()]
    *most, last = dict.fromkeys(names)
    raise ValueError(
        f"`config` must be a {', '.join(most)} or {last}. "
        f"Received: config={config!r}"
    )
