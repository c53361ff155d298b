"""The settings of a convolution as numbers per dimension, and which input its windows read."""

from dataclasses import dataclass

from layerscope.explain.kinds import windows
from layerscope.networks.layer_calls import DescribedCall, spatial_dims


@dataclass(frozen=True)
class Settings:
    """Of a convolution, each size per dimension.

    Args:
        padding: before the first input.
        padding_after: behind the last one: with `same` it may be one more.
        mode: `zeros`, or how the padding repeats the input.
    """

    dims: int
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    padding_after: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    in_per_group: int
    out_per_group: int
    mode: str

    def group_of_output(self, channel: int) -> int:
        """Which group makes this output channel."""
        return channel // self.out_per_group

    def group_of_input(self, channel: int) -> int:
        """Which group reads this input channel."""
        return channel // self.in_per_group


def settings(spec: DescribedCall) -> Settings:
    """A convolution's, transposed or not."""
    geometry, dims = spec.geometry, spatial_dims(spec.kind)
    kernel_size = windows.per_dimension(geometry["kernel_size"], dims)
    dilation = windows.per_dimension(geometry["dilation"], dims)
    groups = geometry["groups"]
    before, after = _padding(geometry["padding"], kernel_size, dilation)
    return Settings(
        dims=dims,
        kernel_size=kernel_size,
        stride=windows.per_dimension(geometry["stride"], dims),
        padding=before,
        padding_after=after,
        dilation=dilation,
        groups=groups,
        in_per_group=geometry["in_channels"] // groups,
        out_per_group=geometry["out_channels"] // groups,
        mode=geometry.get("padding_mode", "zeros"),
    )


def _padding(
    padding: object, kernel_size: tuple[int, ...], dilation: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if padding == "same":
        totals = [d * (k - 1) for k, d in zip(kernel_size, dilation, strict=True)]
        return tuple(t // 2 for t in totals), tuple(t - t // 2 for t in totals)
    amounts = windows.per_dimension(0 if padding == "valid" else padding, len(kernel_size))
    return amounts, amounts


def axes(spec: DescribedCall) -> windows.Axes:
    """Which input each kernel cell of each output reads, per spatial dimension."""
    conv = settings(spec)
    found = map(
        windows.sliding_axis,
        windows.spatial_sizes(spec.input_shape, conv.dims),
        windows.spatial_sizes(spec.output_shape, conv.dims),
        *(conv.kernel_size, conv.stride, conv.padding, conv.dilation),
    )
    if conv.mode == "zeros":
        return tuple(found)
    return tuple(windows.padded_with_itself(axis, conv.mode) for axis in found)
