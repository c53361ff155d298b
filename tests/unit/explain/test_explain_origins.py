"""Where a factor is made of other numbers, what is printed of it gives the factor again."""

import math
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from layerscope.config.schema import CrossEntropyConfig, MSEConfig
from layerscope.explain.engine import explain_network
from layerscope.explain.explanation import ExplainSettings
from layerscope.networks.cifar_cnn import CifarCNN
from layerscope.networks.tiny_cnn import TinyCNN

SPELLINGS = (("−", "-"), ("·", "*"), ("½", "0.5"), ("√", "sqrt"), ("≤", "<="), ("≥", ">="))
FUNCTIONS = {"sqrt": math.sqrt, "ln": math.log, "tanh": math.tanh, "erf": math.erf}


def evaluated(text, arguments):
    """What the text comes to with these numbers in it."""
    written = text.format(*(f"({argument!r})" for argument in arguments))
    for spelling, python in SPELLINGS:
        written = written.replace(spelling, python)
    written = re.sub(r"(?<!\w)e\^", "e**", written).replace("^", "**")
    written = re.sub(r"sqrt(\d+)", r"sqrt(\1)", written)
    written = re.sub(r"\[([^\]]*?) = ([^\]]*?)\]", r"(\1 == \2)", written)
    written = written.replace("[", "(").replace("]", ")")
    names = {**FUNCTIONS, "max": max, "min": min, "e": math.e, "π": math.pi}
    return float(eval(written, {"__builtins__": {}}, names))


def test_the_evaluator():
    assert evaluated("1/√({} + 10^(−5))", [4.0]) == 1 / math.sqrt(4 + 1e-5)
    assert evaluated("e^({} − {})", [1.0, 3.0]) == pytest.approx(math.exp(-2))
    assert evaluated("−((1 − 0.1)·[3 = 3] + 0.1/5)", []) == pytest.approx(-0.92)
    assert evaluated("[−3 < {} < 3]·(2·{} + 3)/6", [-1.0, -1.0]) == pytest.approx(1 / 6)
    assert evaluated("{}^2/√2 + [{} ≤ 0]", [-2.0, 1.0]) == pytest.approx(4 / math.sqrt(2))


class Other(nn.Module):
    """The kinds that the named networks do not have."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4, eps=1e-3)
        self.others = nn.Sequential(nn.GroupNorm(2, 4), nn.LayerNorm(6))
        self.curves = nn.Sequential(
            *(nn.Sigmoid(), nn.Tanh(), nn.SiLU(), nn.Mish(), nn.GELU(), nn.GELU("tanh")),
            *(nn.LeakyReLU(0.2), nn.ELU(1.5), nn.Softplus(2.0), nn.Softplus(threshold=0.1)),
            *(nn.ReLU6(), nn.Hardtanh(-0.5, 2.0), nn.Hardsigmoid(), nn.Hardswish()),
        )
        self.pools = nn.Sequential(
            nn.AvgPool2d(3, 1, 1, count_include_pad=False),
            nn.AvgPool2d((2, 1), divisor_override=3),
            nn.AdaptiveAvgPool2d((3, 4)),
            nn.AdaptiveAvgPool2d(1),
        )
        self.dropout = nn.Dropout(0.3)

    def forward(self, x):
        x = self.others(self.norm(self.conv(x)))
        x = sum((curve(x) for curve in self.curves[1:]), self.curves[0](x))
        mean = x.mean((2, 3))
        x = self.dropout(self.pools(x).flatten(1))
        return F.softmax(x, 1) + F.log_softmax(mean, 1)


def factors(network, shape, loss, train):
    torch.manual_seed(0)
    settings = ExplainSettings(
        network="net", input_shape=shape, loss=loss, train=train, learning_rate=0.01
    )
    image = 2 * torch.randn(shape)
    found = explain_network(network, settings, image, analysis=False)
    values = list(found.loss.values)
    for layer in found.layers:
        assert layer.refused is None, layer.key
        values += [*layer.output_values, *layer.input_gradient_values]
        values += [*layer.weight_gradient_values, *layer.bias_gradient_values]
    for update in found.updates:
        values += update.values
    for value in values:
        for group in value.groups:
            for factor in group.factors:
                yield value, group, factor


SMOOTHED = CrossEntropyConfig(name="cross_entropy", label_smoothing=0.1)
PLAIN = CrossEntropyConfig(name="cross_entropy", label_smoothing=0.0)


@pytest.mark.parametrize(
    ("network", "shape", "loss", "train"),
    [
        (TinyCNN(), (2, 1, 8, 8), PLAIN, True),
        (TinyCNN(), (2, 1, 8, 8), MSEConfig(name="mse"), True),
        (CifarCNN(channels=(3, 4), input_shape=(3, 8, 8)), (4, 3, 8, 8), SMOOTHED, True),
        (Other(), (2, 2, 6, 6), SMOOTHED, True),
        (Other(), (2, 2, 6, 6), PLAIN, False),
    ],
    ids=["tiny", "tiny-mse", "cifar", "other", "other-eval"],
)
def test_every_origin_gives_its_factor(network, shape, loss, train):
    unexplained, num_origins = set(), 0
    for value, group, factor in factors(network, shape, loss, train):
        if factor.origin is None:
            unexplained.add(factor.symbol)
            continue
        num_origins += 1
        columns = [np.broadcast_to(a, group.num_terms) for a in factor.origin.arguments]
        assert all(a.shape in ((), (group.num_terms,)) for a in factor.origin.arguments)
        numbers = np.broadcast_to(factor.values, group.num_terms)
        for term in range(min(group.num_terms, 12)):
            arguments = [float(column[term]) for column in columns]
            expected = float(numbers[term])
            assert evaluated(factor.origin.text, arguments) == pytest.approx(
                expected, rel=1e-12, abs=1e-15
            ), (value.name, factor.symbol, factor.origin.text, arguments)
        assert len(group.factors) == 1 or factor.origin.text[0] != "−", factor.origin.text
    assert num_origins > 10
    assert unexplained <= READ


READ = {
    *("x", "w", "b", "y", "0", "m", "v", "m_0", "v_0", r"(-\eta)", r"\beta_1", r"\beta_2", "z"),
    *(r"\frac{\partial L}{\partial y}", r"\frac{\partial L}{\partial w}"),
    *(r"\frac{\partial L}{\partial b}", r"\frac{\partial L}{\partial \mu}"),
    *(r"\frac{\partial L}{\partial \sigma^2}", r"\mu_{\text{run}}", r"\sigma^2_{\text{run}}"),
}


def test_a_probability_too_small_for_a_number():
    class Far(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(1, 2, bias=False)
            with torch.no_grad():
                self.fc.weight.copy_(torch.tensor([[-1.0], [2000.0]]))

        def forward(self, x):
            return self.fc(x)

    settings = ExplainSettings(network="net", input_shape=(1, 1), loss=PLAIN)
    found = explain_network(Far(), settings, torch.ones(1, 1), analysis=False)
    loss = next(value for value in found.loss.values if value.name == "L")
    (surprise, _) = loss.groups[0].factors
    assert surprise.origin is not None
    arguments = [float(argument[0]) for argument in surprise.origin.arguments]
    assert evaluated(surprise.origin.text, arguments) == loss.computed == 2001
