"""The low-rank delta: what every LoRA layer shares."""

from collections.abc import Mapping
from typing import Any, ClassVar

import keras
from keras import ops

from keras_lora.errors import raise_if
from keras_lora.methods.host import AdapterHost, Setting, Specs
from keras_lora.methods.stack import one_for_all
from keras_lora.model import surgery
from keras_lora.model.stacked import slots_of
from keras_lora.settings import positive_int, positive_number, share

register = keras.saving.register_keras_serializable(package="keras_lora")


def wrong_low_rank(settings: Mapping[str, Any]) -> list[str]:
    """Says what of rank, alpha and dropout is missing or out of range."""
    problems = positive_int("rank", settings.get("rank"))
    problems += positive_number("alpha", settings.get("alpha"))
    return problems + share("dropout", settings.get("dropout"))


def low_rank_settings(
    method: str, rank: Any, alpha: Any, dropout: Any
) -> dict[str, Any]:
    """A layer's settings, as they stand in a file."""
    return {
        "method": method,
        "rank": int(rank),
        "alpha": float(alpha),
        "dropout": float(dropout),
    }


def rank_and_alpha(settings: dict[str, Any], weights: dict[str, Any]) -> str:
    """The size of a low-rank adapter, for people."""
    return f"rank {settings['rank']}, alpha {settings['alpha']:g}"


class Shown:
    """A host's kernel as the layers around it see it.

    Some blocks multiply by the kernels of their layers and call none of them.
    Outside of a call it is the base's variable, as it always was; the host
    itself reads that, too.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, layer: Any, owner: type | None = None) -> Any:
        if layer is None:
            return self
        kernel = getattr(surgery.view(layer, layer._host_class), self.name)
        read_for_a_product = layer.adapter_weights and surgery.in_a_call()
        return layer.shown(kernel) if read_for_a_product else kernel


class LowRank(AdapterHost):
    """Adds `(x A) B * scale` to what a linear host computes from `x`.

    A host says how it multiplies by `A` (`_project`) and by `B` (`_expand`),
    how large the two are (`_sizes`) and how their product lies in its kernel
    (`_as_kernel`).
    """

    activation: Any
    quantization_mode: str | None
    neutral_weights: ClassVar[tuple[str, ...]] = ("lora_b",)
    fast_weights: ClassVar[tuple[str, ...]] = ("lora_b",)
    adapter_settings: dict[str, Any]

    def weight_specs(self, settings: dict[str, Any]) -> Specs:
        rank = settings["rank"]
        size_in, size_out = self._sizes()
        random = keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")
        return {
            "lora_a": ((size_in, rank), random),
            "lora_b": ((rank, size_out), "zeros"),
        }

    @property
    def lora_a(self) -> Any:
        """Variable (in, rank), float32; starts random."""
        return self.adapter_weights["lora_a"]

    @property
    def lora_b(self) -> Any:
        """Variable (rank, out), float32; starts at zero."""
        return self.adapter_weights["lora_b"]

    @property
    def lora_scale(self) -> float:
        """What the update is multiplied by."""
        settings = self.adapter_settings
        return float(settings["alpha"] / settings["rank"])

    def delta(self, x: Any) -> Any:
        """The update of the host's product with `x`, in float32."""
        x = self.dropped(ops.cast(x, "float32"))
        return self._through(x, self.lora_a, self.lora_b)

    def _through(self, x: Any, a: Any, b: Any) -> Any:
        return self._expand(self._project(x, a) * self.lora_scale, b)

    def rows_delta(self, x: Any, a: Any, b: Any, ids: Any) -> Any:
        """The same with each row's own factors, out of many stacked ones.

        Args:
            x: The host's input; its first axis is made of the rows, in their
                order, `k` entries each where a layer before folded axes in.
            a: Stack (slots, in, rank).
            b: Stack (slots, rank, out), scale folded in.
            ids: Int32 tensor (rows,) of slots, or one slot () for all, or
                `OWN` where both are gathered already.
        """
        x = ops.cast(x, "float32")
        if not one_for_all(ids):
            return self._rows_delta(x, a, b, ids)
        h = self._project(x, slots_of(a, ids))
        return self._expand(h, slots_of(b, ids))

    def delta_kernel(self) -> Any:
        """The update of the host's kernel, in its shape, in float32."""
        return self._as_kernel(self.update_matrix())

    def shown(self, kernel: Any) -> Any:
        """What other layers multiply by: `kernel` with its update.

        A quantized one is codes: they stay as they are.
        """
        if self.quantization_mode is not None:
            return kernel
        kernel = ops.convert_to_tensor(kernel)
        updated = ops.cast(kernel, "float32") + self.delta_kernel()
        return ops.cast(updated, kernel.dtype)

    def update_matrix(self) -> Any:
        """What the factors come to as a matrix (in, out), in float32."""
        return ops.matmul(self.lora_a, self.lora_b) * self.lora_scale

    def kernel_matrix(self) -> Any:
        """The host's kernel (in, out), in float32."""
        kernel = ops.cast(surgery.kernel_of(self), "float32")
        return self._as_matrix(kernel)

    def _adapted(self, method: str, x: Any) -> Any:
        y = self.host_call(method, x, overrides={"activation": None})
        y = self.adapted_product(x, y)
        return y if self.activation is None else self.activation(y)

    def adapted_product(self, x: Any, y: Any) -> Any:
        """The host's product `y` of `x`, before its activation, updated."""
        return y + ops.cast(self.delta(x), y.dtype)

    def _sizes(self) -> tuple[int, int]:
        raise NotImplementedError

    def _project(self, x: Any, a: Any) -> Any:
        raise NotImplementedError

    def _expand(self, h: Any, b: Any) -> Any:
        raise NotImplementedError

    def _rows_delta(self, x: Any, a: Any, b: Any, ids: Any) -> Any:
        raise NotImplementedError

    def _as_kernel(self, update: Any) -> Any:
        return ops.reshape(update, surgery.kernel_of(self).shape)

    def _as_matrix(self, kernel: Any) -> Any:
        return ops.reshape(kernel, self._sizes())


class LoRALayer(LowRank):
    """A LoRA layer with a constructor; its own weights are frozen."""

    method: ClassVar[str] = "lora"
    named_settings: ClassVar[tuple[str, ...]] = ("rank", "alpha", "dropout")

    alpha = Setting()
    dropout = Setting()

    def _set(self, rank: Any, alpha: Any, dropout: Any = 0.0) -> None:
        given = {"rank": rank, "alpha": alpha, "dropout": dropout}
        raise_if(f"{type(self).__name__} was not made", wrong_low_rank(given))
        self.__dict__["adapter_settings"] = low_rank_settings(
            self.method, **given
        )

    def build(self, input_shape: Any = None) -> None:
        if self.adapter_weights:
            return
        super().build(input_shape)  # type: ignore[misc]
        self.freeze()
        self.attach(self.__dict__["adapter_settings"])

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()  # type: ignore[misc]
        settings = self.__dict__["adapter_settings"]
        names = self.named_settings
        return {**config, **{name: settings[name] for name in names}}
