"""Every kind that theory knows, alone behind a convolution: nothing unexplained in any setting."""

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from layerscope.reconcile import Settings, profile_network

OTHER = torch.rand(2, 4, 6, 6)
KINDS = {
    "relu": F.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "celu": F.celu,
    "selu": F.selu,
    "relu6": F.relu6,
    "hardtanh": F.hardtanh,
    "gelu": F.gelu,
    "silu": F.silu,
    "mish": F.mish,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "softplus": F.softplus,
    "abs": torch.abs,
    "clamp": lambda x: x.clamp(0, 1),
    "square": torch.square,
    "exp": torch.exp,
    "sqrt": lambda x: torch.sqrt(x.abs()),
    "rsqrt": lambda x: torch.rsqrt(x.abs()),
    "reciprocal": torch.reciprocal,
    "neg": torch.neg,
    "mean": lambda x: x.mean((2, 3)),
    "mean of all": torch.mean,
    "sum": lambda x: x.sum(1),
    "maximum": lambda x: torch.maximum(x, x * 2),
    "minimum": lambda x: torch.minimum(x, x * 2),
    "softmax": lambda x: x.softmax(1),
    "log_softmax": lambda x: x.log_softmax(1),
    "cross_entropy": lambda x: F.cross_entropy(x.float(), torch.zeros(2, 6, 6, dtype=torch.long)),
    "clone": torch.clone,
    "repeat": lambda x: x.repeat(1, 2, 1, 1),
    "roll": lambda x: x.roll(1, 2),
    "flip": lambda x: x.flip(2),
    "pad": lambda x: F.pad(x, (1, 1)),
    "pixel_shuffle": lambda x: F.pixel_shuffle(x, 2),
    "stack": lambda x: torch.stack([x, x * 2]),
    "select": lambda x: x[:, 0],
    "narrow": lambda x: x.narrow(1, 0, 2),
    "unbind": lambda x: x.unbind(1)[0],
    "split and cat": lambda x: torch.cat(x.split(2, 1)[::-1], 1),
    "expand": lambda x: x.mean((2, 3), keepdim=True).expand(2, 4, 6, 6) * x,
    "unsqueeze": lambda x: x.unsqueeze(0).squeeze(0),
    "add to itself": lambda x: x + x,
    "sub": lambda x: x - OTHER,
    "sub from a number": lambda x: 1 - x,
    "sub twice": lambda x: x - 2 * x,
    "div by a number": lambda x: x / 3.0,
    "div": lambda x: x / (x.abs() + 1),
    "mul by a number": lambda x: x * 3.0,
    "mul by itself": lambda x: x * x,
    "mul in place": lambda x: (x * 1).mul_(2.0),
    "gate": lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True)),
    "max_pool": nn.MaxPool2d(3, 2, ceil_mode=True),
    "max_pool with indices": nn.MaxPool2d(2, return_indices=True),
    "avg_pool": nn.AvgPool2d(2),
    "adaptive_max_pool": nn.AdaptiveMaxPool2d(2),
    "adaptive_avg_pool": nn.AdaptiveAvgPool2d(2),
    "global avg_pool": nn.AdaptiveAvgPool2d(1),
    "instance_norm": nn.InstanceNorm2d(4),
    "affine instance_norm": nn.InstanceNorm2d(4, affine=True),
    "group_norm": nn.GroupNorm(2, 4),
    "plain group_norm": nn.GroupNorm(2, 4, affine=False),
    "layer_norm": nn.LayerNorm(6),
    "plain layer_norm": nn.LayerNorm(6, elementwise_affine=False),
    "batch_norm": nn.BatchNorm2d(4),
    "plain batch_norm": nn.BatchNorm2d(4, affine=False),
    "batch_norm without running statistics": nn.BatchNorm2d(4, track_running_stats=False),
    "dropout": nn.Dropout(0.5),
    "dropout in place": nn.Dropout(0.5, inplace=True),
    "dropout of nothing": nn.Dropout(0.0),
    "dropout of everything": nn.Dropout(1.0),
    "feature_dropout": nn.Dropout2d(0.5),
    "stochastic_depth of rows": torchvision.ops.StochasticDepth(0.5, "row"),
    "stochastic_depth of the batch": torchvision.ops.StochasticDepth(0.5, "batch"),
    "stochastic_depth of nothing": torchvision.ops.StochasticDepth(0.0, "row"),
    "flatten": nn.Flatten(),
    "reshape that copies": lambda x: x.permute(0, 2, 3, 1).reshape(2, -1),
    "contiguous": lambda x: x.contiguous(),
    "contiguous that copies": lambda x: x.permute(0, 2, 3, 1).contiguous(),
    "to": lambda x: x.to(torch.float64),
    "identity": nn.Identity(),
    "gate in place": lambda x: (x * 1).mul_(torch.sigmoid(x)),
    "conv of the same size with an even kernel": nn.Conv2d(4, 4, 2, padding="same"),
    "conv that reflects": nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
    "conv of the same size that wraps": nn.Conv2d(4, 4, 3, padding="same", padding_mode="circular"),
    "linear of channels": nn.Sequential(nn.Conv2d(4, 4, 1), nn.Linear(6, 3)),
    "conv of the same size": nn.Conv2d(4, 4, 3, padding="same"),
    "grouped, dilated conv": nn.Conv2d(4, 8, 3, 2, 1, 2, 4),
    "conv_transpose": nn.ConvTranspose2d(4, 4, 3, 2),
    "grouped conv_transpose": nn.ConvTranspose2d(4, 4, 3, groups=2),
    "linear of what is permuted": lambda x: F.linear(x.permute(0, 2, 3, 1), torch.ones(3, 4).to(x)),
}
SETTINGS = {
    "float32": {},
    "bf16_autocast": {"dtype": "bf16_autocast"},
    "bfloat16": {"dtype": "bfloat16"},
    "channels_last": {"channels_last": True},
    "eval": {"train": False},
}


class Behind(nn.Module):
    def __init__(self, operation):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)
        self.operation = operation

    def forward(self, x):
        return self.operation(self.conv(x))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_unexplained(kind, setting):
    settings = Settings(kind, (2, 4, 6, 6), **SETTINGS[setting])
    profile = profile_network(Behind(KINDS[kind]), settings)
    assert profile.notes == ()
    rows = [row for row in (*profile.rows, *profile.totals) if row.is_exact]
    assert [row for row in rows if row.unexplained != 0] == []
