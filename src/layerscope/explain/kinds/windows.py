"""Which inputs a window reads and which windows read an input: of convolutions and of pooling."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerscope.dry_run import Shape
from layerscope.explain.factors import grid
from layerscope.explain.values import Indices, Position


@dataclass(frozen=True, eq=False)
class WindowAxis:
    """One spatial dimension.

    Args:
        size: of the input.
        coordinates: (num_windows, num_cells), what each cell of each window reads: an index of the
            input, or one below 0 or from `size` on, which is padding.
        exists: (num_windows, num_cells), False where a window has no such cell: adaptive windows
            differ in size, and with ceil_mode a window ends where the padding does.
    """

    size: int
    coordinates: Indices
    exists: NDArray[np.bool_]

    @property
    def inside(self) -> NDArray[np.bool_]:
        """(num_windows, num_cells), which cells read the input."""
        return self.exists & (self.coordinates >= 0) & (self.coordinates < self.size)

    def readers(self, coordinate: int) -> tuple[Indices, Indices]:
        """The windows that read this input, each with its cell that does so."""
        windows, cells = np.nonzero(self.inside & (self.coordinates == coordinate))
        return windows, cells


Axes = tuple[WindowAxis, ...]


@dataclass(frozen=True, eq=False)
class WindowCells:
    """The cells of one window, over all spatial dimensions.

    Args:
        cells: (num_cells, num_dims), their indices in the kernel.
        coordinates: (num_cells, num_dims), of the input.
        inside: (num_cells,), False for padding.
    """

    cells: Indices
    coordinates: Indices
    inside: NDArray[np.bool_]


def sliding_axis(
    size: int, num_windows: int, kernel_size: int, stride: int, padding: int, dilation: int
) -> WindowAxis:
    """Window i reads s·i + d·u - p, for u from 0 to k - 1.

    Args:
        padding: before the first input.
    """
    windows, cells = np.arange(num_windows), np.arange(kernel_size)
    coordinates = stride * windows[:, None] + dilation * cells - padding
    return WindowAxis(size, coordinates, np.ones(coordinates.shape, dtype=bool))


def without_overhang(axis: WindowAxis, padding: int) -> WindowAxis:
    """Cells behind the padding at the end left out."""
    return replace(axis, exists=axis.exists & (axis.coordinates < axis.size + padding))


def adaptive_axis(size: int, num_windows: int) -> WindowAxis:
    """Window i reads from floor(i·H / n) to before ceil((i + 1)·H / n), of H inputs, n windows."""
    windows = np.arange(num_windows)
    starts = windows * size // num_windows
    ends = -(-(windows + 1) * size // num_windows)
    coordinates = starts[:, None] + np.arange(max(ends - starts, default=0))
    return WindowAxis(size, coordinates, coordinates < ends[:, None])


def padded_with_itself(axis: WindowAxis, mode: str) -> WindowAxis:
    """Padding that repeats the input: `circular`, `replicate` or `reflect`."""
    last = axis.size - 1
    outside = axis.coordinates
    found = {
        "circular": outside % axis.size,
        "replicate": np.clip(outside, 0, last),
        "reflect": last - abs(last - abs(outside)),
    }
    return replace(axis, coordinates=found[mode])


def cells_of(axes: Axes, window: Position) -> WindowCells:
    """Those that exist, in row-major order."""
    rows = [np.flatnonzero(axis.exists[index]) for axis, index in zip(axes, window, strict=True)]
    cells = grid(*rows)
    coordinates = np.stack(
        [a.coordinates[i, u] for a, i, u in zip(axes, window, cells.T, strict=True)], axis=-1
    )
    inside = [a.inside[i, u] for a, i, u in zip(axes, window, cells.T, strict=True)]
    return WindowCells(cells, coordinates, np.all(inside, axis=0))


def readers_of(axes: Axes, coordinates: Position) -> tuple[Indices, Indices]:
    """All windows that read an input: (num, num_dims) windows, (num, num_dims) cells of theirs."""
    found = [axis.readers(index) for axis, index in zip(axes, coordinates, strict=True)]
    chosen = grid(*(np.arange(len(windows)) for windows, _ in found)).T
    windows = [pairs[0][rows] for pairs, rows in zip(found, chosen, strict=True)]
    cells = [pairs[1][rows] for pairs, rows in zip(found, chosen, strict=True)]
    return np.stack(windows, axis=-1), np.stack(cells, axis=-1)


def first_inside(axes: Axes, window: Position) -> Position:
    """The first input that a window reads; the nearest one where it reads padding only."""
    return tuple(
        int(np.clip(_first_coordinate(axis, index), 0, axis.size - 1))
        for axis, index in zip(axes, window, strict=True)
    )


def _first_coordinate(axis: WindowAxis, window: int) -> int:
    cells = np.flatnonzero(axis.inside[window])
    return axis.coordinates[window, cells[0] if len(cells) else 0]


def per_dimension(setting: Any, dims: int) -> tuple[int, ...]:
    """`kernel_size=3` as (3, 3)."""
    if isinstance(setting, int):
        return (setting,) * dims
    return tuple(setting) * dims if len(setting) == 1 else tuple(setting)


def spatial_sizes(shape: Shape, dims: int) -> Shape:
    """The last ones."""
    return tuple(shape[len(shape) - dims :])
