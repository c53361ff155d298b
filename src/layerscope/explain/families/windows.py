"""Sliding windows: which input each cell of each window reads, and how that is written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerscope.dry_run import Shape
from layerscope.explain import notation
from layerscope.explain.linear_maps import Letters, ListedRows
from layerscope.explain.operation import Operation
from layerscope.explain.values import Indices
from layerscope.operations.family import per_dimension

# Functions that pad their input, which a convolution does itself in other modes than zeros.
PADDINGS = ("pad",)


def spatial_dims(operation: Operation) -> int:
    """Return 2 for `conv2d`, `max_pool2d_with_indices`, ..."""
    return next(int(letter) for letter in operation.name if letter.isdigit())


@dataclass(frozen=True)
class WindowSettings:
    """Settings of windows of one size, each per dimension.

    Args:
        padding: before the first input; `padding_after` behind the last one.
        mode: `zeros`, or how the padding repeats the input.
    """

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    padding_after: tuple[int, ...]
    dilation: tuple[int, ...]
    mode: str = "zeros"

    def letters(self, *, transposed: bool = False) -> notation.Dimensions:
        """Return the indices of the formulas."""
        return notation.window_dimensions(
            *(self.kernel_size, self.stride, self.padding, self.dilation),
            wrapped=self.mode != "zeros",
            transposed=transposed,
        )

    @property
    def numbers(self) -> str:
        """`Here $k = 3$, $p = 1$.`"""
        return notation.window_numbers(self.kernel_size, self.stride, self.padding, self.dilation)

    def coordinates(self, dim: int, size: int, num_windows: int) -> Indices:
        """(num_windows, num_cells), what each cell reads; below 0 or from `size` on is padding."""
        windows, cells = np.arange(num_windows), np.arange(self.kernel_size[dim])
        found = self.stride[dim] * windows[:, None] + self.dilation[dim] * cells - self.padding[dim]
        last = size - 1
        return {
            "zeros": lambda: found,
            "circular": lambda: found % size,
            "replicate": lambda: np.clip(found, 0, last),
            "reflect": lambda: last - abs(last - abs(found)),
        }[self.mode]()


def windows_of(operation: Operation, kernel_size: Sequence[int] | int, dims: int) -> WindowSettings:
    """Return the settings that a convolution or pooling was called with."""
    kernel = per_dimension(kernel_size, dims)
    dilation = per_dimension(operation.get("dilation", 1), dims)
    before, after = _padding(operation, kernel, dilation)
    mode = "zeros" if operation.padding is None else operation.padding.get("mode", "constant")
    return WindowSettings(
        kernel_size=kernel,
        stride=per_dimension(operation.get("stride", 1), dims),
        padding=before,
        padding_after=after,
        dilation=dilation,
        mode="zeros" if mode == "constant" else mode,
    )


def _padding(
    operation: Operation, kernel: tuple[int, ...], dilation: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if operation.padding is not None:  # the last dimension's first
        amounts = operation.padding["pad"]
        return tuple(amounts[::2])[::-1], tuple(amounts[1::2])[::-1]
    padding = operation.get("padding", 0)
    if padding == "same":
        totals = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        return tuple(t // 2 for t in totals), tuple(t - t // 2 for t in totals)
    amounts = per_dimension(0 if padding == "valid" else padding, len(kernel))
    return amounts, amounts


def spatial_shape(shape: Shape, dims: int) -> Shape:
    """Return the last ones."""
    return tuple(shape[len(shape) - dims :])


def window_table(
    coordinates: Indices, exists: NDArray[np.bool_], size: int, dims: Mapping[str, int]
) -> ListedRows:
    """Return the axis of windows over one dimension.

    Args:
        coordinates: (num_windows, num_cells), what each cell reads.
        exists: (num_windows, num_cells), False where a window has no such cell.
        size: of what is read; an index outside is padding.
        dims: the dimensions of y, x and, where it has them, w.
    """
    window, cell = np.nonzero(exists)
    read = coordinates[window, cell]
    index = {"y": window[:, None], "x": read[:, None], "w": cell[:, None]}
    outside = (read < 0) | (read >= size)
    return ListedRows(
        {tensor: (dim,) for tensor, dim in dims.items()},
        {tensor: index[tensor] for tensor in dims},
        padding=outside if outside.any() else None,
    )


def transposed_table(table: ListedRows) -> ListedRows:
    """Return the axis with x and y exchanged; what would lie outside of y is left out."""
    exchanged = {"y": "x", "x": "y"}
    inside = slice(None) if table.padding is None else ~table.padding
    return ListedRows(
        {tensor: table.dims[exchanged.get(tensor, tensor)] for tensor in table.dims},
        {tensor: table.index[exchanged.get(tensor, tensor)][inside] for tensor in table.index},
    )


def window_letters(dim: notation.Dimension, *, transposed: bool = False) -> Letters:
    """Return how the axis of this dimension is written."""
    window, read = ("x", "y") if transposed else ("y", "x")

    def index(given: str) -> dict[str, tuple[str]]:
        by_read = given == read
        return {
            window: (dim.reader if by_read else dim.window,),
            read: (dim.coordinate if by_read or (transposed and given == "b") else dim.read,),
            "w": (dim.cell_index,),
        }

    sums = {window: dim.sum_over_cells, read: dim.sum_over_readers, "w": dim.sum_over_windows}
    over_outputs = notation.summed(dim.coordinate, notation.size_name(dim, "out"))
    return Letters({**sums, "b": over_outputs if transposed else dim.sum_over_windows}, index)


def readers_sentence(dims: notation.Dimensions, what: str) -> str:
    """Say which windows a sum runs over; nothing where each input has one.

    Args:
        what: the sentence's beginning.
    """
    bounds = "; ".join(dim.reader_bounds for dim in dims if dim.reader_bounds)
    return f"{what}: {bounds}." if bounds else ""


def setting(value: Any, default: Any) -> Any:
    """Return a setting; the default where it is None or an empty list."""
    return default if value is None or value in ((), []) else value
