from collections import OrderedDict
from itertools import pairwise

from torch import nn

from layerscope.networks.common import pooled_size, scaled_channels


def conv_block(in_channels: int, out_channels: int, kernel_size: int) -> nn.Sequential:
    """Return a convolution that preserves the size, batch norm, ReLU and max-pool by 2."""
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2),
            bn=nn.BatchNorm2d(out_channels),
            relu=nn.ReLU(),
            pool=nn.MaxPool2d(2),
        )
    )


class CifarCNN(nn.Sequential):
    """Convolution blocks, global average pooling and one linear layer.

    Maps images (N, C, H, W) to logits (N, num_classes). The default arguments give 94,986
    parameters and 1,816 B of buffers.

    Args:
        input_shape: (C, H, W) of one image.
        channels: output channels of each block, before the width multiplier.
        kernel_size: odd, so that the convolution preserves the size.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int] = (3, 32, 32),
        num_classes: int = 10,
        channels: tuple[int, ...] = (32, 64, 128),
        kernel_size: int = 3,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        for size in input_shape[1:]:
            pooled_size(size, len(channels), "cifar_cnn")
        widths = (input_shape[0], *scaled_channels(channels, width))
        for number, (in_channels, out_channels) in enumerate(pairwise(widths), start=1):
            self.add_module(f"block{number}", conv_block(in_channels, out_channels, kernel_size))
        self.gap = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(widths[-1], num_classes)
