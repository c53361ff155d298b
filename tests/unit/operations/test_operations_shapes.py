import pytest
import torch
from torch import nn

from layerscope.dry_run import dry_run
from layerscope.operations.shapes import (
    Window,
    ceil_pool_output_size,
    conv_output_size,
    conv_transpose_output_size,
    window_of,
)
from layerscope.theory import textbook_units


@pytest.mark.parametrize("size", range(5, 12))
@pytest.mark.parametrize(("kernel_size", "stride", "padding"), [(3, 2, 1), (2, 3, 0), (5, 1, 2)])
@pytest.mark.parametrize("dilation", [1, 2])
def test_output_sizes_are_torchs(size, kernel_size, stride, padding, dilation):
    image = torch.zeros(1, 1, size)
    settings = (kernel_size, stride, padding)
    if size + 2 * padding > dilation * (kernel_size - 1):
        conv = nn.Conv1d(1, 1, *settings, dilation=dilation)
        assert conv(image).shape[-1] == conv_output_size(size, *settings, dilation)
        pool = nn.MaxPool1d(*settings, dilation=dilation, ceil_mode=True)
        assert pool(image).shape[-1] == ceil_pool_output_size(size, *settings, dilation)
    transpose = nn.ConvTranspose1d(1, 1, *settings, dilation=dilation)
    if (wanted := conv_transpose_output_size(size, *settings, dilation=dilation)) > 0:
        assert transpose(image).shape[-1] == wanted


class Halved(nn.Module):
    """Of a pooling without a stride, the stride is the window."""

    def forward(self, x):
        return nn.functional.avg_pool2d(x, 2)


def windows(module, shape):
    run = dry_run(module, (torch.empty(shape),), backward=False)
    found = (window_of(unit.invocation) for unit in textbook_units(run))
    return [window for window in found if window is not None]


@pytest.mark.parametrize(
    ("module", "shape", "window"),
    [
        (nn.Conv2d(3, 4, 5, 2, 1), (1, 3, 9, 9), Window((5, 5), (2, 2), (1, 1), (1, 1))),
        (
            nn.Conv2d(3, 4, (3, 5), padding="same", dilation=(1, 2)),
            (1, 3, 9, 9),
            Window((3, 5), (1, 1), (1, 4), (1, 2)),
        ),
        (nn.Conv1d(3, 4, 3, padding="valid"), (1, 3, 9), Window((3,), (1,), (0,), (1,))),
        (nn.MaxPool2d(3, padding=1), (1, 3, 9, 9), Window((3, 3), (3, 3), (1, 1), (1, 1))),
        (nn.AvgPool2d((2, 3), 1), (1, 3, 9, 9), Window((2, 3), (1, 1), (0, 0), (1, 1))),
        (Halved(), (1, 3, 9, 9), Window((2, 2), (2, 2), (0, 0), (1, 1))),
        (nn.AvgPool3d(2), (1, 3, 4, 4, 4), Window((2,) * 3, (2,) * 3, (0,) * 3, (1,) * 3)),
    ],
)
def test_the_window_of_a_layer(module, shape, window):
    assert windows(module, shape) == [window]
    columns = (shape[2:], window.kernel_size, window.stride, window.padding, window.dilation)
    sizes = tuple(conv_output_size(*column) for column in zip(*columns, strict=True))
    assert sizes == module(torch.zeros(shape)).shape[2:]


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Linear(3, 4), (1, 3)),
        (nn.BatchNorm2d(3), (2, 3, 4, 4)),
        (nn.AdaptiveAvgPool2d(1), (1, 3, 9, 9)),
        (nn.Conv2d(3, 4, 2, padding="same"), (1, 3, 9, 9)),  # pads more on one side
    ],
)
def test_what_has_no_window(module, shape):
    assert windows(module, shape) == []
