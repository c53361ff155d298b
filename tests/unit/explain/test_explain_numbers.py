"""What is said of numbers that cancel, of all numbers of a small network, and in the end of all."""

import math
import re

import numpy as np
import pytest
import torch
from torch import nn

from layerscope.base.errors import UserError
from layerscope.config.schema import CrossEntropyConfig
from layerscope.explain.engine import explain_network
from layerscope.explain.explanation import ExplainSettings
from layerscope.explain.values import Factor, Origin, Terms, Value
from layerscope.library.explain import explain
from layerscope.networks.simple_cnn import SimpleCNN
from layerscope.networks.tiny_cnn import TinyCNN
from layerscope.report.document import Beside, Document, Paragraph, Table, columns_in
from layerscope.report.explain.content import explanation_document
from layerscope.report.explain.report import ExplanationReport, verdict
from layerscope.report.explain.values import (
    common_origins,
    equation,
    full,
    short,
    value_blocks,
)
from layerscope.report.html import to_page
from layerscope.report.markdown import inline, to_markdown

SHAPE = (4, 1, 6, 6)


class Net(nn.Module):
    def __init__(self, shortcut=False, norm=True):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.bn = nn.BatchNorm2d(2) if norm else nn.Identity()
        self.fc = nn.Linear(2 * 16, 2)
        self.shortcut = shortcut

    def forward(self, x):
        y = self.conv(x)
        z = self.bn(y)
        return self.fc((z + y if self.shortcut else z).relu().flatten(1))


def explained(network, train=True, shape=SHAPE, **settings):
    torch.manual_seed(0)
    chosen = ExplainSettings("net", shape, train=train, **settings)
    return explain_network(network, chosen, torch.randn(shape), analysis=False)


def value_of(terms, actual, dtype=torch.float32, **columns):
    factor = Factor("x", np.array(terms), **columns)
    return Value("y[0]", "layer", "sum", (Terms((factor,), len(terms)),), actual, dtype)


@pytest.mark.parametrize(
    ("terms", "dtype", "cancels"),
    [
        ([1.0, -1.0, 1e-9], torch.float32, True),
        ([1.0, -1.0, 1e-4], torch.float32, False),
        ([1.0, -1.0, 1e-9], torch.float64, False),
        ([1.0, -1.0, 1e-16], torch.float64, True),
        ([1.0, -1.0, 5e-3], torch.bfloat16, True),
        ([1.0, -0.9], torch.bfloat16, False),
        ([1e-12], torch.float32, False),
        ([0.0, 0.0], torch.float32, False),
    ],
)
def test_terms_cancel_where_only_their_rounding_is_left(terms, dtype, cancels):
    assert value_of(terms, 0.0, dtype).cancels == cancels


def test_a_sum_of_many_random_terms_in_bfloat16_does_not_cancel():
    terms = np.random.default_rng(0).normal(size=32_768)
    assert not value_of(terms.tolist(), 0.0, torch.bfloat16).cancels


def test_agreement_is_measured_by_the_terms():
    assert value_of([1.0, -1.0, 1e-9], -3e-8).agrees()
    assert not value_of([1.0, -1.0, 1e-9], 1e-4).agrees()
    assert value_of([1.0], None).agrees() is None
    assert not value_of([1.0], math.nan).agrees()


def test_a_bias_before_a_batch_norm_is_said_to_be_without_effect():
    explanation = explained(Net())
    markdown = to_markdown(explanation_document(explanation))
    assert explanation.layer("conv").bias_removed_by == "bn"
    (value,) = explanation.layer("conv").bias_gradient_values
    assert abs(value.computed) <= 1e-6 * value.magnitude
    assert markdown.count("In mathematics this is exactly 0: bn alone reads") == 1
    assert "Adam divides it by its own size" in markdown
    assert "SGD moves the bias by as little" in markdown


@pytest.mark.parametrize(
    ("network", "train"), [(Net(), False), (Net(shortcut=True), True), (Net(norm=False), True)]
)
def test_a_bias_that_has_an_effect_is_not(network, train):
    explanation = explained(network, train)
    assert explanation.layer("conv").bias_removed_by is None
    assert explanation.layer("conv").bias_gradient_values[-1].computed != pytest.approx(0, abs=1e-6)


def test_the_last_line_is_the_verdict():
    explanation = explained(Net())
    text = " ".join(str(ExplanationReport(explanation)).split())
    count = sum(value.actual is not None for value in explanation.values)
    count += sum(v.actual is not None for update in explanation.updates for v in update.values)
    assert f"All {count} values that the network shows agree within rounding: they" in text
    assert (" cancels " in text) == ("`cancels`" in text)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_loss_of_a_network_that_is_sure_agrees(dtype):
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
    with torch.no_grad():
        network[1].weight.mul_(0)
        network[1].bias.copy_(torch.tensor([40.0, 0.5]))
    for target in (0, 1):
        explanation = explained(network, shape=(1, 1, 6, 6), dtype=dtype, target=target)
        assert verdict(explanation).startswith("All ")


def test_what_does_not_agree_is_named():
    explanation = explained(Net())
    (wrong,) = explanation.layer("bn").bias_gradient_values[-1:]
    object.__setattr__(wrong, "actual", wrong.computed + 1)
    assert "1 of " in verdict(explanation)
    assert f"bn {wrong.name}. The others do" in verdict(explanation)


def test_the_loss_is_named_with_its_smoothing_and_its_class():
    loss = CrossEntropyConfig(name="cross_entropy", label_smoothing=0.1)
    names = ("cat", "<dog>")
    explanation = explained(Net(), loss=loss, target=1, class_names=names)
    words = "cross-entropy with label smoothing 0.1 against class 1 (<dog>)"
    assert words in str(ExplanationReport(explanation))
    assert "dL/dy[0,0] cat" in str(ExplanationReport(explanation))
    markdown = to_markdown(explanation_document(explanation))
    assert "The classes: 0 cat, 1 &lt;dog&gt;." in markdown


@pytest.mark.parametrize(
    ("network", "shape"), [(TinyCNN(), (1, 1, 8, 8)), (SimpleCNN(), (2, 1, 4, 4))]
)
def test_a_small_network_is_printed_whole(network, shape):
    explanation = explained(network, shape=shape)
    (image, *_) = explanation.numbers
    assert image.array.shape == (1, *shape[1:])
    markdown = to_markdown(explanation_document(explanation))
    section = markdown[markdown.index("\n## All numbers") : markdown.index("\n## Summary tables")]
    parts = section.split("<details>")[1:]
    assert len(parts) == len(explanation.numbers)
    for part, numbers in zip(parts, explanation.numbers, strict=True):
        cells = re.findall(r"^\| \d* \| (.*) \|$", part, re.MULTILINE)
        printed = [float(cell) for row in cells for cell in row.split(" | ")]
        assert printed == pytest.approx(numbers.array.ravel().tolist(), rel=1e-6)


def test_a_larger_one_is_not():
    explanation = explained(nn.Sequential(nn.Flatten(), nn.Linear(64, 40)), shape=(1, 1, 8, 8))
    assert explanation.numbers == ()
    assert "All numbers" not in to_markdown(explanation_document(explanation))


def test_terms_that_are_zero_are_counted():
    text = inline(equation(value_of([0.0, 0.0, 0.0, 0.5, 0.0, 0.25], 0.75)))
    assert text == "(3 terms that are 0) + 0.5 + 0 + 0.25 = **0.750000**"
    text = inline(equation(value_of([0.0] * 90 + [1.0] * 20, 20.0)))
    assert "(… 102 more terms, 90 of them 0, that add up to 12.000000)" in text


def test_what_a_factor_is_made_of_is_written():
    origin = Origin("e^({} − {})", (np.array([0.5, -1.0]), np.array(-2.0)))
    value = value_of(np.exp([2.5, 1.0]).tolist(), None, origin=origin)
    first, second = inline(equation(value)).split("<br>= ")
    assert first == "e^(0.5 − (-2)) + e^(-1 − (-2))"
    assert second.endswith(f"**{full(value.computed)}**")
    shared = Origin("1/√({} + 10^(−5))", (np.array(0.15),))
    group = Terms((Factor("x", np.ones(2)), Factor("s", np.array(2.5819), origin=shared)), 2)
    value = Value("y[0]", "layer", "sum", (group,), None)
    assert inline(common_origins(value)) == "With $s$ = 1/√(0.15 + 10^(−5)) = 2.5819."


def test_numbers_have_six_digits_that_count():
    assert full(-0.0037671234) == "-0.00376712"
    assert full(1.25) == "1.250000"
    assert full(2.5e-7) == "2.50000e-07"
    assert full(-0.0) == "0.000000"
    assert short(float(np.float32(0.3)), 9) == "0.3"


def test_what_cancels_is_not_told_in_ulp():
    blocks = tuple(value_blocks(value_of([1.0, -1.0, 1e-9], -3e-8)))
    text = to_markdown(Document("", blocks))
    assert "ulp of it means nothing" in text
    assert "terms that add up to 2 in absolute value" in text


def test_small_tables_stand_in_a_row():
    table = Table(columns_in("number", "a"), (("1",),))
    page = to_page(Document("title", (Beside((table, table)), Paragraph("text"), table)))
    assert page.count('<div class="row">') == 1
    row = page[page.index('<div class="row">') : page.index("<p>text")]
    assert row.count("<table>") == 2


def test_an_input_shape_without_its_batch_is_named():
    with pytest.raises(UserError, match=r"lacks the batch: give \(N, C, H, W\), such as \(1, 1, 8"):
        explain(TinyCNN(), (1, 8, 8))
    with pytest.raises(UserError, match=r"give \(N, C, L\)"):
        explain(nn.Sequential(nn.Conv1d(2, 3, 3)), (2, 8))
