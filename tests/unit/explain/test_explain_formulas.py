"""What every formula that a document shows must be: rendered whole, and no more than needed."""

import pytest
import torch
from captures import Network
from latex2mathml.converter import convert
from torch import nn
from torch.nn import functional as F

from layerscope.explain.families import explainer_of, operation_in
from layerscope.explain.losses import loss_formulas
from layerscope.networks.layer_calls import network_calls

LAYERS = [
    (nn.Conv2d(3, 4, 3), (2, 3, 8, 8)),
    (nn.Conv2d(4, 4, (3, 1), stride=(2, 1), padding=(1, 0), dilation=2, groups=2), (2, 4, 8, 8)),
    (nn.Conv2d(4, 4, 2, groups=4, padding="same", dilation=2), (2, 4, 8, 8)),
    (nn.Conv2d(4, 4, 1), (4, 8, 8)),
    (nn.Conv2d(4, 4, 1, groups=4), (2, 4, 8, 8)),
    (nn.Conv1d(4, 4, 2, padding=1, padding_mode="circular"), (2, 4, 8)),
    (nn.Conv3d(4, 4, 3, stride=2, padding=1), (2, 4, 5, 6, 7)),
    (nn.Linear(4, 3), (2, 4)),
    (nn.Linear(4, 3, bias=False), (2, 3, 4)),
    (nn.ReLU(), (2, 3)),
    (nn.ReLU6(), (2, 3)),
    (nn.LeakyReLU(), (2, 3)),
    (nn.Sigmoid(), (2, 3)),
    (nn.Tanh(), (2, 3)),
    (nn.SiLU(), (2, 3)),
    (nn.GELU(), (2, 3)),
    (nn.GELU("tanh"), (2, 3)),
    (nn.Hardsigmoid(), (2, 3)),
    (nn.Hardswish(), (2, 3)),
    (nn.Hardtanh(), (2, 3)),
    (nn.ELU(), (2, 3)),
    (nn.ELU(0.5), (2, 3)),
    (nn.Softplus(), (2, 3)),
    (nn.Softplus(2.0), (2, 3)),
    (nn.Mish(), (2, 3)),
    (nn.BatchNorm1d(3), (2, 3)),
    (nn.BatchNorm2d(3), (2, 3, 4, 4)),
    (nn.BatchNorm3d(3).eval(), (2, 3, 4, 4, 4)),
    (nn.LayerNorm(3), (2, 3)),
    (nn.LayerNorm(3), (3,)),
    (nn.LayerNorm((3, 4)), (2, 5, 3, 4)),
    (nn.GroupNorm(2, 4), (2, 4, 3, 3)),
    (nn.GroupNorm(2, 4, affine=False), (2, 4)),
    (nn.MaxPool2d(2), (2, 3, 8, 8)),
    (nn.MaxPool2d(1, 2), (2, 3, 8, 8)),
    (nn.MaxPool1d(3, 2, 1, ceil_mode=True), (2, 3, 8)),
    (nn.AvgPool2d(2), (2, 3, 8, 8)),
    (nn.AvgPool2d((3, 2), 2, 1, count_include_pad=False), (2, 3, 8, 8)),
    (nn.AvgPool3d(2, divisor_override=5), (2, 3, 4, 4, 4)),
    (nn.AdaptiveAvgPool2d(1), (2, 3, 8, 8)),
    (nn.AdaptiveAvgPool2d((3, 1)), (2, 3, 8, 8)),
    (nn.AdaptiveMaxPool2d((3, 2)), (2, 3, 8, 8)),
    (nn.Softmax(1), (2, 3)),
    (nn.LogSoftmax(1), (2, 3)),
    (nn.Flatten(), (2, 3, 4)),
    (nn.Identity(), (2, 3, 4)),
    (lambda x: x.permute(0, 2, 1), (2, 3, 4)),
    (nn.Dropout(0.1), (2, 3, 4)),
    (nn.Dropout(0.1).eval(), (2, 3, 4)),
    (nn.ConvTranspose2d(4, 4, 3, stride=2, padding=1, groups=2), (2, 4, 5, 5)),
    (nn.ConvTranspose1d(4, 4, 1, bias=False), (2, 4, 5)),
    (lambda x: x + x.clone(), (2, 3)),
    (lambda x: x * x.clone(), (2, 3)),
    (lambda x: torch.cat([x, x.clone()], 1), (2, 3)),
    (lambda x: x.mean((2, 3)), (2, 3, 4, 4)),
    (lambda x: x - x[:, :1].clone(), (2, 3)),
    (lambda x: x * 2.5, (2, 3)),
    (lambda x: x + 1, (2, 3)),
    (lambda x: torch.add(x, x.clone(), alpha=2), (2, 3)),
    (lambda x: x @ x.clone(), (3, 3)),
    (lambda x: torch.bmm(x, x.mT), (2, 3, 4)),
    (lambda x: F.scaled_dot_product_attention(x, x.clone(), x.relu()), (2, 3, 4)),
    (lambda x: F.scaled_dot_product_attention(x, x + 1, x * 2, is_causal=True, scale=0.5), (2, 3)),
    (nn.PReLU(), (2, 3)),
    (nn.GLU(), (2, 4)),
    (nn.SELU(), (2, 3)),
    (nn.CELU(2.0), (2, 3)),
    (nn.RMSNorm(3), (2, 3)),
    (nn.RMSNorm((3, 4), eps=1e-3), (2, 3, 4)),
    (nn.InstanceNorm2d(3, affine=True), (2, 3, 4, 4)),
    (nn.Upsample(scale_factor=2), (2, 3, 4, 4)),
    (nn.Upsample(scale_factor=2, mode="bilinear"), (2, 3, 4, 4)),
]


def formulas_of(layer, shape):
    spec = network_calls(Network(layer), shape).layers[-1]
    operation = operation_in(spec)
    assert operation is not None
    return {formula.quantity: formula for formula in explainer_of(operation).formulas(operation)}


def passages(formulas):
    """Every piece of LaTeX, that in the sentences included."""
    for formula in formulas:
        yield formula.latex
        assert formula.where.count("$") % 2 == 0
        yield from formula.where.split("$")[1::2]


ALL = [
    *(
        pytest.param(
            lambda layer=a, shape=b: formulas_of(layer, shape),
            id=f"{number} {type(a).__name__}",
        )
        for number, (a, b) in enumerate(LAYERS)
    ),
    *(
        pytest.param(
            lambda kind=kind, eps=eps: {f.quantity: f for f in loss_formulas(kind, eps)},
            id=f"{kind}-{eps}",
        )
        for kind, eps in [("mse", 0.0), ("cross_entropy", 0.0), ("cross_entropy", 0.1)]
    ),
]


@pytest.mark.parametrize("formulas", ALL)
def test_every_formula_is_rendered(formulas):
    for latex in passages(formulas().values()):
        mathml = convert(latex)
        assert "\\" not in mathml, latex
        assert latex.count("{") == latex.count("}")
        assert "<mi></mi>" not in mathml
        # Markdown takes a backslash before punctuation away, reads < as a tag, | as a column.
        assert not any(
            mark in latex for mark in ("\\,", "\\;", "\\!", "\\{", "\\\\", "<", "|", "*", "  ")
        )


def test_settings_that_change_nothing_drop_out():
    found = formulas_of(nn.Conv2d(3, 4, 3), (2, 3, 8, 8))
    y, dl_dx = found["y"], found["dL/dx"]
    assert "x_{n, c, i + u, j + v}" in y.latex
    assert " g " not in y.latex
    assert "padding" not in y.where
    assert "whole" not in dl_dx.where
    assert "0 \\le i = r - u \\lt H_{\\text{out}}" in dl_dx.where


def test_settings_that_count_are_there():
    layer = nn.Conv2d(4, 4, 3, stride=2, padding=1, dilation=2, groups=2, bias=False)
    found = formulas_of(layer, (2, 4, 9, 9))
    assert [*found] == ["y", "dL/dx", "dL/dw"]
    assert "x_{n, g C_g + c, s i + d u - p, s j + d v - p}" in found["y"].latex
    assert "(i, u) \\mid s i + d u - p = r" in found["dL/dx"].latex
    assert "i = (r + p - d u) / s$ is whole" in found["dL/dx"].where
    assert "\\sum_{n=0}^{N-1}" in found["dL/dw"].latex
    for text in ("$k = 3$", "$s = 2$", "$p = 1$", "$d = 2$", "$G = 2$", "is 0"):
        assert text in found["y"].where


def test_a_kernel_of_one_cell_reads_one_input_and_is_read_by_one_output():
    found = formulas_of(nn.Conv2d(4, 4, 1), (2, 4, 8, 8))
    assert found["dL/dx"].latex.count("\\sum") == 1
    assert "y_{n, o, r, q}" in found["dL/dx"].latex


@pytest.mark.parametrize("layer", [nn.MaxPool2d(2), nn.AvgPool2d(2)], ids=str)
def test_the_indices_of_the_input_are_told_where_they_are_used(layer):
    found = formulas_of(layer, (2, 3, 8, 8))
    assert "r, q" not in found["y"].latex + found["y"].where
    assert "$(r, q)$ input position" in found["dL/dx"].where


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_class_is_no_kernel(smoothing):
    formulas = [*formulas_of(nn.Softmax(1), (2, 3)).values()]
    formulas += [*formulas_of(nn.LogSoftmax(1), (2, 3)).values()]
    formulas += loss_formulas("cross_entropy", smoothing)
    for latex in passages(formulas):
        assert "_k" not in latex
        assert "{k" not in latex
