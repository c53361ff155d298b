"""The settings of a pooling layer, which input its windows read, and what an average divides by."""

from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from layerscope.explain import notation
from layerscope.explain.kinds import windows
from layerscope.explain.values import Floats, Indices, Origin
from layerscope.networks.layer_calls import DescribedCall


@dataclass(frozen=True)
class Settings:
    """Of pooling by windows of one size, each size per dimension.

    Args:
        counts_padding: whether an average divides by the cells in the padding too.
        divisor: that an average divides by, whatever it counts.
    """

    dims: int
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    counts_padding: bool
    divisor: int | None


def settings(spec: DescribedCall) -> Settings:
    """A pooling layer's."""
    geometry = spec.geometry
    dims = _dims(spec, geometry["kernel_size"])
    kernel_size = windows.per_dimension(geometry["kernel_size"], dims)
    return Settings(
        dims=dims,
        kernel_size=kernel_size,
        stride=windows.per_dimension(geometry.get("stride") or kernel_size, dims),
        padding=windows.per_dimension(geometry.get("padding", 0), dims),
        dilation=windows.per_dimension(geometry.get("dilation", 1), dims),
        counts_padding=geometry.get("count_include_pad", True),
        divisor=geometry.get("divisor_override"),
    )


def _dims(spec: DescribedCall, sizes: object) -> int:
    """As many as there are sizes; of one number, all dimensions behind batch and channel.

    Where what would be the channels changes in number, there is no batch.
    """
    if isinstance(sizes, tuple | list) and len(sizes) > 1:
        return len(sizes)
    shape = spec.input_shape
    has_batch = len(shape) > 2 and shape[1] == spec.output_shape[1]
    return len(shape) - (2 if has_batch else 1)


def sliding_axes(spec: DescribedCall) -> windows.Axes:
    """Which input each cell of each window reads, per spatial dimension."""
    pool = settings(spec)
    return tuple(
        map(
            windows.sliding_axis,
            windows.spatial_sizes(spec.input_shape, pool.dims),
            windows.spatial_sizes(spec.output_shape, pool.dims),
            *(pool.kernel_size, pool.stride, pool.padding, pool.dilation),
        )
    )


def adaptive_axes(spec: DescribedCall) -> windows.Axes:
    """Likewise, of windows that adapt to the output's size."""
    dims = _dims(spec, spec.geometry["output_size"])
    inputs = windows.spatial_sizes(spec.input_shape, dims)
    outputs = windows.spatial_sizes(spec.output_shape, dims)
    return tuple(map(windows.adaptive_axis, inputs, outputs))


@dataclass(frozen=True, eq=False)
class Averaging:
    """How the cells of a window are averaged.

    Args:
        counted: (num_windows, num_cells) for each axis: which cells the window has.
        divisor: where it is not the number of counted cells.
        divisor_symbol: in LaTeX; empty where windows differ in what they divide by.
    """

    axes: windows.Axes
    counted: tuple[NDArray[np.bool_], ...]
    divisor: int | None
    divisor_symbol: str

    def weights(self, chosen: Indices) -> Floats:
        """(num_windows,), 1 over what the windows at these indices divide by."""
        if self.divisor is not None:
            return np.full(len(chosen), 1 / self.divisor)
        return 1 / np.prod(self._sizes(chosen), axis=0)

    def origin(self, chosen: Indices) -> Origin:
        """Where these weights come from."""
        if self.divisor is not None:
            return Origin(f"1/{self.divisor}", ())
        sizes = self._sizes(chosen)
        if not len(chosen) or np.any(sizes != sizes[:, :1]):
            return Origin("1/{}", (np.prod(sizes, axis=0, dtype=np.float64),))
        product = "·".join(str(size) for size in sizes[:, 0])
        return Origin(f"1/({product})" if len(sizes) > 1 else f"1/{product}", ())

    def _sizes(self, chosen: Indices) -> Indices:
        """(num_dims, num_windows), how many cells are counted along each dimension."""
        pairs = zip(self.counted, chosen.T, strict=True)
        return np.array([mask.sum(axis=1)[i] for mask, i in pairs], dtype=np.int64)

    def factor(self, indices: tuple[str, ...] = ()) -> str:
        """The LaTeX of the weight of the window at these indices."""
        return rf"\frac{{1}}{{{self.divisor_symbol or notation.at('m', *indices)}}}"


def sliding_average(spec: DescribedCall) -> Averaging:
    """Of windows of one size."""
    pool = settings(spec)
    axes = tuple(map(windows.without_overhang, sliding_axes(spec), pool.padding))
    counted = tuple(axis.exists if pool.counts_padding else axis.inside for axis in axes)
    if pool.divisor is not None:
        return Averaging(axes, counted, pool.divisor, "D")
    letters = notation.symbols("k", pool.kernel_size)
    is_fixed = all(bool(mask.all()) for mask in counted)
    return Averaging(axes, counted, None, _product(letters) if is_fixed else "")


def adaptive_average(spec: DescribedCall) -> Averaging:
    """Of windows that adapt to the output's size."""
    axes = adaptive_axes(spec)
    counted = tuple(axis.inside for axis in axes)
    is_global = prod(len(axis.coordinates) for axis in axes) == 1
    letters = tuple(notation.sized(size, "in") for size in notation.size_letters(len(axes)))
    return Averaging(axes, counted, None, " ".join(letters) if is_global else "")


def _product(letters: tuple[str, ...]) -> str:
    if len(letters) > 1 and len(set(letters)) == 1:
        return f"{letters[0]}^{len(letters)}"
    return " ".join(letters)
