"""Networks that are frozen in parts, tied, mixed or otherwise arranged: nothing unexplained."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import layerscope
from layerscope.networks.cifar_cnn import CifarCNN

IMAGE = (4, 3, 16, 16)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(self.a(x).relu())


class Twice(nn.Module):
    """One convolution called twice, nested outputs."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return {"a": self.conv(self.conv(x)), "b": [x.mean()]}


class Doubled(nn.Conv2d):
    """A subclass with a forward of its own: its operations are layers."""

    def forward(self, x):
        return F.relu(super().forward(x)) * 2


class Ungraded(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x):
        with torch.no_grad():
            y = self.a(x)
        return self.b(y)


class Branched(nn.Module):
    """A branch that leads nowhere, and a result that is used three times."""

    def __init__(self):
        super().__init__()
        self.stem, self.used, self.dropped = (nn.Conv2d(3, 3, 1) for _ in range(3))

    def forward(self, x):
        x = self.stem(x)
        self.dropped(x).exp()
        return torch.cat([self.used(x), x], 1) + x.repeat(1, 2, 1, 1)


def frozen(*names, network=CifarCNN):
    model = network()
    for name, parameter in model.named_parameters():
        if any(part in name for part in names):
            parameter.requires_grad_(False)
    return model


def mixed():
    model = CifarCNN()
    model.block1.bn.eval()
    return model


CASES = {
    "frozen weights, learning biases": (lambda: frozen("weight"), IMAGE),
    "frozen biases": (lambda: frozen("bias"), IMAGE),
    "a frozen block in the middle": (lambda: frozen("block2"), IMAGE),
    "a frozen head": (lambda: frozen("fc"), IMAGE),
    "everything frozen": (lambda: frozen(""), IMAGE),
    "mixed modes": (mixed, IMAGE),
    "one image": (CifarCNN, (1, 3, 32, 32)),
    "float64": (lambda: CifarCNN().double(), IMAGE),
    "tied weights": (Tied, (4, 6)),
    "called twice": (Twice, IMAGE),
    "a subclass": (lambda: nn.Sequential(Doubled(3, 4, 3), nn.Conv2d(4, 2, 1)), IMAGE),
    "a part without gradients": (Ungraded, IMAGE),
    "branches": (Branched, IMAGE),
    "no parameters": (nn.ReLU, IMAGE),
    "odd channels": (
        lambda: nn.Sequential(
            *(nn.Conv2d(3, 7, 3), nn.BatchNorm2d(7), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(7 * 49, 3)),
        ),
        IMAGE,
    ),
    "one dimension": (
        lambda: nn.Sequential(
            nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.MaxPool1d(2), nn.AvgPool1d(2)
        ),
        (4, 3, 16),
    ),
    "three dimensions": (
        lambda: nn.Sequential(
            *(nn.Conv3d(3, 4, 3), nn.BatchNorm3d(4), nn.ReLU(), nn.MaxPool3d(2)),
            *(nn.AdaptiveAvgPool3d(1), nn.Flatten()),
        ),
        (2, 3, 8, 8, 8),
    ),
}
SETTINGS = {
    "as it is": {},
    "bf16_autocast": {"dtype": "bf16_autocast"},
    "input requires a gradient": {"input_requires_grad": True},
    "channels_last": {"channels_last": True},
}


def left(report):
    rows = [row for row in (*report.rows, *report.totals) if row.is_exact]
    return [(row.layer, row.quantity, row.unexplained) for row in rows if row.unexplained != 0]


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("case", CASES)
def test_nothing_is_unexplained(case, setting):
    build, shape = CASES[case]
    assert left(layerscope.profile(build(), shape, **SETTINGS[setting])) == []


def test_a_weight_that_is_computed_is_not_guessed():
    conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3))
    report = layerscope.profile(nn.Sequential(conv, nn.ReLU()), IMAGE)
    rows = {(row.layer, row.quantity, row.instrument): row for row in report.rows}
    assert rows["0", "forward_flops", "flop_counter"].unexplained == 0
    kept = rows["0", "saved_bytes", "saved"]
    assert kept.measured > 0
    assert kept.unexplained is None
    assert any(reason.code == "unknown_kind" for reason in kept.reasons)


def test_what_a_checkpoint_computes_again_is_seen():
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x):
            return torch.utils.checkpoint.checkpoint(self.b, self.a(x), use_reentrant=False)

    report = layerscope.profile(Checkpointed(), IMAGE)
    assert ("b", "backward_flops", 2 * 4 * 16 * 16 * 16) in left(report)
