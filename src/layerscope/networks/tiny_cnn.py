import torch
from torch import nn

from layerscope.base.errors import UserError
from layerscope.networks.common import pooled_size, scaled_channels, start_alive


class TinyCNN(nn.Sequential):
    """Four convolutions, small enough to follow every number by hand.

    Maps images (N, C, H, W) to logits (N, num_classes). The default arguments give 124 parameters
    and no buffers.

    Args:
        input_shape: (C, H, W) of one image.
        channels: output channels of conv1, conv2, conv3, before the width multiplier.
        kernel_size: of conv1 and conv2; odd, so that the convolution preserves the size.
        head_kernel_size: of conv_out, which must cover the whole map that pool2 leaves.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int] = (1, 8, 8),
        num_classes: int = 2,
        channels: tuple[int, int, int] = (2, 4, 2),
        kernel_size: int = 3,
        head_kernel_size: int = 2,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        left = tuple(pooled_size(size, 2, "tiny_cnn") for size in input_shape[1:])
        if left != (head_kernel_size, head_kernel_size):
            raise UserError(
                f"tiny_cnn's last convolution sees {left[0]}x{left[1]} of an image of "
                f"{input_shape[1]}x{input_shape[2]} but covers {head_kernel_size}x"
                f"{head_kernel_size}: set model.input_shape to [C, {4 * head_kernel_size}, "
                f"{4 * head_kernel_size}] or model.head_kernel_size to the size it sees"
            )
        first, second, third = scaled_channels(channels, width)
        padding = kernel_size // 2
        self.conv1 = nn.Conv2d(input_shape[0], first, kernel_size, padding=padding)
        self.relu1 = nn.ReLU()
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(first, second, kernel_size, padding=padding)
        self.relu2 = nn.ReLU()
        self.pool2 = nn.AvgPool2d(2)
        self.conv3 = nn.Conv2d(second, third, 1)
        self.relu3 = nn.ReLU()
        self.conv_out = nn.Conv2d(third, num_classes, head_kernel_size)
        self.flatten = nn.Flatten()
        for convolution in (self.conv1, self.conv2, self.conv3):
            start_alive(convolution)
        with torch.no_grad():
            # Its inputs are never negative, so its outputs start positive.
            self.conv3.weight.abs_()
