"""A network whose training depends on everything that a resume must bring back."""

from torch import nn


class Small(nn.Sequential):
    """Convolution, batch norm and dropout: statistics and random numbers matter."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(
            nn.Conv2d(3, 4, 3, stride=2, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(16, num_classes),
        )
