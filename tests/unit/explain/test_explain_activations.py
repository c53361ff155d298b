import pytest
import torch
import torch.nn.functional as F
from captures import assert_agrees, assert_explained, captured, explainer
from torch import nn


@pytest.mark.parametrize(
    "layer",
    [
        nn.ReLU(),
        nn.ReLU6(),
        nn.LeakyReLU(0.2),
        nn.Sigmoid(),
        nn.Tanh(),
        nn.SiLU(),
        nn.GELU(),
        nn.GELU("tanh"),
        nn.Hardswish(),
        nn.Hardtanh(),
        nn.Hardtanh(-0.5, 2.0),
        nn.ELU(),
        nn.ELU(1.5),
        nn.Softplus(),
        nn.Softplus(2.0, threshold=1.0),
        nn.Mish(),
        nn.SELU(),
        nn.CELU(),
        nn.CELU(1.5),
        nn.PReLU(),
        nn.PReLU(3),
        nn.GLU(-2),
        nn.GLU(2),
        nn.Softmax(1),
        nn.Softmax(-1),
        nn.LogSoftmax(0),
        nn.Flatten(),
        nn.Flatten(2),
        nn.Identity(),
        nn.Unflatten(1, (3, 1)),
        nn.Dropout(0.3).eval(),
        nn.Dropout(0.3),
        nn.Dropout2d(0.5),
        nn.Dropout(1.0),
        nn.Dropout(0.0),
    ],
    ids=str,
)
def test_modules(layer):
    image = 2 * torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)).double()
    assert_explained(captured(layer, (2, 3, 4, 5), image=image))


def test_hardsigmoid_whose_slope_pytorch_takes_in_float32():
    call = captured(nn.Hardsigmoid(), (1, 1), image=torch.ones(1, 1, dtype=torch.float64))
    (y,) = explainer(call).output(call, (0, 0))
    assert_agrees(y)
    (gradient,) = explainer(call).gradient(call, "x", (0, 0))
    assert gradient.computed == pytest.approx(gradient.actual, rel=2**-24)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.relu(x),
        lambda x: x.view(2, -1),
        lambda x: x.reshape(6, 5),
        lambda x: x.permute(2, 0, -2),
        lambda x: torch.permute(x, (1, 2, 0)),
        lambda x: x.transpose(-1, 0),
        lambda x: torch.swapaxes(x, 1, 2),
        lambda x: x.movedim(0, 2),
        lambda x: x.movedim((0, 1), (-1, 0)),
        lambda x: F.elu(x, 0.5),
        lambda x: F.hardtanh(x, -0.3, 0.3),
        lambda x: F.softplus(x, 3, threshold=0.5),
        lambda x: F.softmax(x, dim=1),
        lambda x: x.mean((1, 2)),
        lambda x: x.mean(-1, keepdim=True),
        lambda x: x.mean(),
        lambda x: x.sum((0, 2)),
        lambda x: F.dropout(x, 0.4, training=True),
        lambda x: F.glu(torch.cat([x, x.relu()], 1), 1),
    ],
)
def test_functions(function):
    assert_explained(captured(function, (2, 3, 5)))


@pytest.mark.parametrize("value", [0.0, -1.0, 2.0])
def test_the_maximum_with_zero(value):
    image = torch.full((1, 1), value, dtype=torch.float64)
    call = captured(nn.ReLU(), (1, 1), image=image)
    (y,) = explainer(call).output(call, (0, 0))
    assert y.reduction == "max"
    assert sorted(y.products.tolist()) == sorted([value, 0.0])
    (gradient,) = explainer(call).gradient(call, "x", (0, 0))
    assert gradient.computed == gradient.actual
