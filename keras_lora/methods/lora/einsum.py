"""How an einsum of an input with a kernel splits into two of lower rank."""

import functools
import math
from dataclasses import dataclass
from typing import Any

from keras import ops


@dataclass(frozen=True)
class Split:
    """The kernel's axes by their part: found in the input, or only after it.

    Attributes:
        project: Equation of the input with `A` (`*shape_in`, rank).
        expand: Equation of that with `B` (rank, `*shape_out`).
        scale: Equation of the output with numbers (`*shape_out`).
        shape_in: Sizes of the kernel's axes that the input has too.
        shape_out: Sizes of its other axes.
        kernel_order: Permutation from (`*shape_in`, `*shape_out`) to the
            kernel's own order of axes.
        plain: Whether it all is one matrix product of flattened axes.
    """

    project: str
    expand: str
    scale: str
    shape_in: tuple[int, ...]
    shape_out: tuple[int, ...]
    kernel_order: tuple[int, ...]
    plain: bool

    @property
    def project_rows(self) -> str:
        """`project` where `A` has one more axis in front: the row."""
        return self._by_row(self.project)

    @property
    def expand_rows(self) -> str:
        """`expand` where `B` has one more axis in front: the row."""
        return self._by_row(self.expand)

    @property
    def scale_rows(self) -> str:
        """`scale` where the numbers have one more axis in front: the row."""
        return self._by_row(self.scale)

    def _by_row(self, equation: str) -> str:
        source, rest = equation.split(",")
        return f"{source},{source[0]}{rest}"

    def flat_in(self, x: Any) -> Any:
        """The input of a plain split with its last axes as one."""
        if len(self.shape_in) == 1:
            return x
        lead = ops.shape(x)[: -len(self.shape_in)]
        return ops.reshape(x, (*lead, math.prod(self.shape_in)))

    def unflat_out(self, y: Any) -> Any:
        """The output of a plain split with its last axis as the kernel's."""
        if len(self.shape_out) == 1:
            return y
        return ops.reshape(y, (*ops.shape(y)[:-1], *self.shape_out))


@functools.lru_cache(maxsize=4096)
def split_equation(equation: str, kernel_shape: tuple[int, ...]) -> Split:
    """Splits `"bld,dhk->blhk"` into `"bld,dr->blr"` and `"blr,rhk->blhk"`.

    Args:
        equation: As `EinsumDense` takes it, `...` included.
        kernel_shape: Shape of the kernel, one int an axis.
    """
    left, output = equation.replace(" ", "").split("->")
    source, kernel = left.split(",")
    letters = "rabcdefghijklmnopqstuvwxyzRABCDEFGHIJKLMNOPQSTUVWXYZ"
    rank = next(c for c in letters if c not in source + kernel + output)
    axes_in = [c for c in kernel if c in source]
    axes_out = [c for c in kernel if c not in source]
    size = dict(zip(kernel, kernel_shape, strict=True))
    lead = "".join(c for c in output if c not in axes_out)
    ordered = axes_in + axes_out
    joined_in, joined_out = "".join(axes_in), "".join(axes_out)
    plain = (
        joined_in != ""
        and kernel == joined_in + joined_out
        and source == lead + joined_in
        and output == lead + joined_out
    )
    return Split(
        project=f"{source},{joined_in}{rank}->{lead}{rank}",
        expand=f"{lead}{rank},{rank}{joined_out}->{output}",
        scale=f"{output},{joined_out}->{output}",
        shape_in=tuple(size[c] for c in axes_in),
        shape_out=tuple(size[c] for c in axes_out),
        kernel_order=tuple(ordered.index(c) for c in kernel),
        plain=plain,
    )
