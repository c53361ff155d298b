"""Windows of convolutions and pooling, and the sizes of what they put out, per dimension.

They are plain arithmetic: integers give the size, and sympy symbols the formula.
"""

from dataclasses import dataclass

from layerscope.operations.family import Invocation, Number, Shape, per_dimension


@dataclass(frozen=True)
class Window:
    """What a convolution or a pooling slides over its input, per spatial dimension."""

    kernel_size: Shape
    stride: Shape
    padding: Shape
    dilation: Shape


def window_of(call: Invocation) -> Window | None:
    """Return the window of a call; None where it has none, or pads more on one side."""
    arguments = call.arguments
    kernel = arguments.get("kernel_size")
    if kernel is None and len(getattr(arguments.get("weight"), "shape", ())) > 2:
        kernel = arguments["weight"].shape[2:]
    if kernel is None:
        return None
    dims = len(call.input_shape) - 2 if isinstance(kernel, int) else len(kernel)
    kernel = per_dimension(kernel, dims)
    dilation = per_dimension(arguments.get("dilation") or 1, dims)
    padding = arguments.get("padding") or 0
    if padding == "valid":
        padding = 0
    elif padding == "same":
        reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        if any(size % 2 for size in reach):
            return None
        padding = tuple(size // 2 for size in reach)
    default = kernel if "kernel_size" in arguments else 1
    stride = per_dimension(arguments.get("stride") or default, dims)
    return Window(kernel, stride, per_dimension(padding, dims), dilation)


def conv_output_size(
    size: Number, kernel_size: Number, stride: Number, padding: Number, dilation: Number = 1
) -> Number:
    """Return the output size, also of pooling, rounded down; `padding` is added on both sides."""
    return (size + 2 * padding - dilation * (kernel_size - 1) - 1) // stride + 1


def conv_transpose_output_size(
    size: Number,
    kernel_size: Number,
    stride: Number,
    padding: Number,
    output_padding: Number = 0,
    dilation: Number = 1,
) -> Number:
    """Return the size from which a convolution with these settings makes `size`."""
    return (size - 1) * stride - 2 * padding + dilation * (kernel_size - 1) + output_padding + 1


def overhanging_windows(
    size: Number, kernel_size: Number, stride: Number, padding: Number, dilation: Number = 1
) -> Number:
    """Return `conv_output_size` rounded up: the last window may reach beyond the end."""
    return (size + 2 * padding - dilation * (kernel_size - 1) - 1 + stride - 1) // stride + 1


def ceil_pool_output_size(
    size: int, kernel_size: int, stride: int, padding: int, dilation: int = 1
) -> int:
    """Return the size with ceil_mode: a window that starts inside may reach beyond the end."""
    windows = overhanging_windows(size, kernel_size, stride, padding, dilation)
    return windows - 1 if (windows - 1) * stride >= size + padding else windows
