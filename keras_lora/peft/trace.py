"""Where the rows and columns of a tensor end up in a layer's kernel.

Row numbers, and then column numbers, are sent through what a converter does to
the tensor, and read off the kernel.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from keras_lora.methods.lora.einsum import split_equation
from keras_lora.model.surgery import Layer
from keras_lora.model.widths import kernel_shape
from keras_lora.peft.hub import Port

Array = np.ndarray
DIGITS = 256
"""Numbers are sent in digits that every float holds, whatever casts them."""


@dataclass(frozen=True, eq=False)
class Part:
    """A layer's share of a tensor (out, in) of a linear module.

    Attributes:
        path: The layer's path in the base.
        rows_in: The tensor's column of each row of the kernel.
        rows_out: The tensor's row of each column of the kernel.
        transposed: Whether the tensor is (in, out) instead.
    """

    path: str
    rows_in: Array
    rows_out: Array
    transposed: bool = False

    def columns(self) -> int | None:
        """The first of the tensor's rows, where they follow on each other."""
        first = int(self.rows_out[0])
        in_order = np.arange(len(self.rows_in))
        if np.array_equal(self.rows_in, in_order) and np.array_equal(
            self.rows_out, first + np.arange(len(self.rows_out))
        ):
            return first
        return None


@dataclass(frozen=True)
class Matrix:
    """A linear layer's kernel, which counts as a matrix (in, out)."""

    layer: Layer

    @property
    def _parts(self) -> tuple[tuple[int, ...], tuple[int, ...], Sequence[int]]:
        shape = kernel_shape(self.layer)
        equation = getattr(self.layer, "equation", None)
        if equation is None:
            return shape[:1], shape[1:], (0, 1)
        split = split_equation(equation, shape)
        return split.shape_in, split.shape_out, split.kernel_order

    @property
    def sizes(self) -> tuple[int, int]:
        """Its rows and columns."""
        shape_in, shape_out, _ = self._parts
        return math.prod(shape_in), math.prod(shape_out)

    def of(self, kernel: Array) -> Array:
        """A kernel as the matrix."""
        _, _, order = self._parts
        back = sorted(range(len(order)), key=order.__getitem__)
        return kernel.transpose(back).reshape(self.sizes)

    def kernel(self, matrix: Array) -> Array:
        """The matrix as a kernel."""
        shape_in, shape_out, order = self._parts
        return matrix.reshape(*shape_in, *shape_out).transpose(order)


def parts_of(
    ports: Sequence[Port], layers: Sequence[Layer]
) -> list[Part] | None:
    """The shares of the kernels that one tensor goes to.

    None where it is not rows by columns that go there.
    """
    matrices = [Matrix(layer) for layer in layers]
    size_in, size_out = matrices[0].sizes
    all_out = sum(matrix.sizes[1] for matrix in matrices)
    shapes = [(all_out, size_in), (size_in, all_out), (size_out, size_in)]
    for shape in dict.fromkeys(shapes):
        found = [
            trace(port, matrix, shape)
            for port, matrix in zip(ports, matrices, strict=True)
        ]
        if None not in found:
            return [part for part in found if part is not None]
    return None


def trace(port: Port, matrix: Matrix, shape: tuple[int, int]) -> Part | None:
    """A kernel's share of a tensor of some shape, if it has one."""
    try:
        ways = [follow(port, matrix, shape, axis) for axis in (0, 1)]
    except (ValueError, IndexError):  # no tensor of this shape goes in
        return None
    for rows_out, rows_in, transposed in (
        (ways[0].get(1), ways[1].get(0), False),
        (ways[1].get(1), ways[0].get(0), True),
    ):
        if rows_out is not None and rows_in is not None:
            return Part(port.path, rows_in, rows_out, transposed)
    return None


def follow(
    port: Port, matrix: Matrix, shape: tuple[int, int], axis: int
) -> dict[int, Array]:
    """The numbers of a tensor's rows (axis 0) or columns (1) in a kernel.

    They are by the axis of the kernel's matrix that they lie along.
    """
    found = {
        along: np.zeros(n, "int64") for along, n in enumerate(matrix.sizes)
    }
    place = 1
    while place < shape[axis] or place == 1:
        digits = (np.arange(shape[axis]) // place % DIGITS).astype("float32")
        sent = np.broadcast_to(np.expand_dims(digits, 1 - axis), shape)
        got = matrix.of(port.through(sent))
        for along in list(found):
            if varies_along(got, along):
                line = np.take(got, 0, axis=1 - along)
                found[along] += line.astype("int64") * place
            else:
                del found[along]
        place *= DIGITS
    return found


def varies_along(matrix: Array, along: int) -> bool:
    """Whether a matrix's values change along one axis alone, if at all."""
    if matrix.strides[1 - along] == 0 or matrix.shape[1 - along] == 1:
        return True
    return bool((matrix == np.take(matrix, [0], axis=1 - along)).all())
