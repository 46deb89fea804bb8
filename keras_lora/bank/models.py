"""Models over a served base, in which each row has a slot."""

from typing import Any

import keras

from keras_lora.bank.held import PLAIN_CALLS, SERVED
from keras_lora.bank.inputs import IDS, with_ids
from keras_lora.bank.routing import Routed
from keras_lora.bank.slots import Slots
from keras_lora.methods.stack import ALL_BANDS
from keras_lora.model import surgery
from keras_lora.model.compiled import Hold
from keras_lora.model.surgery import Layer


class Models:
    """The model that reads all stacks, and those that read some.

    Args:
        base: The served base.
        inputs: Its symbolic inputs.
        slots: Its slots.
        hold: What keeps others from them meanwhile.
    """

    def __init__(
        self, base: Layer, inputs: Any, slots: Slots, hold: Hold
    ) -> None:
        self._base, self._inputs = base, inputs
        self._slots, self._hold = slots, hold
        self._by_band: dict[int, Any] = {}
        self.whole = self._made(ALL_BANDS)

    def of(self, band: int) -> Any:
        """A model for rows that need no stack above a band: it reads none.

        It runs as the whole one does, and drops what it compiled as all models
        over the base do.
        """
        if band >= self._slots.band:
            return self.whole
        if band not in self._by_band:
            self._by_band[band] = self._made(band)
        return like(self.whole, self._by_band[band])

    def _made(self, band: int) -> Any:
        ids = keras.Input((), dtype="int32", name=IDS)
        routed = Routed(
            self._base,
            lambda: self._slots.count,
            self._hold,
            band,
            name="routed",
        )
        outputs = routed(self._inputs, ids)
        model = keras.Model(with_ids(self._inputs, ids), outputs, name="bank")
        surgery.forbid_training(model, SERVED)
        surgery.run_within(model, PLAIN_CALLS, self._hold)
        return model


def like(one: Any, other: Any) -> Any:
    """The other model, compiled as the one is."""
    for setting in ("run_eagerly", "jit_compile"):
        wanted = getattr(one, setting)
        if getattr(other, setting) != wanted:
            setattr(other, setting, wanted)
            other.predict_function = None
    return other
