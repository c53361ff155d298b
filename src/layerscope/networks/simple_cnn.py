from torch import nn

from layerscope.networks.common import pooled_size, scaled_channels, start_alive


class SimpleCNN(nn.Sequential):
    """One convolution, ReLU, max-pool by 2 and one linear layer.

    Maps images (N, C, H, W) to outputs (N, num_classes).

    Args:
        input_shape: (C, H, W) of one image.
        channels: output channels of the convolution, before the width multiplier.
        kernel_size: odd, so that the convolution preserves the size.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int] = (1, 4, 4),
        num_classes: int = 2,
        channels: tuple[int] = (2,),
        kernel_size: int = 3,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        height, width_left = (pooled_size(size, 1, "simple_cnn") for size in input_shape[1:])
        (out_channels,) = scaled_channels(channels, width)
        self.conv = nn.Conv2d(input_shape[0], out_channels, kernel_size, padding=kernel_size // 2)
        start_alive(self.conv)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(out_channels * height * width_left, num_classes)
