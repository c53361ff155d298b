"""Networks of which not everything is known: nothing unknown is 0, and no sentence is empty."""

import re

import pytest
import torch
from torch import nn
from torch.nn import functional

from layerscope.networks.tiny_cnn import TinyCNN
from layerscope.whatif import analyse


class Odd(nn.Module):
    """A matrix exponential has no formula; the average is a call and no module."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.act = nn.ReLU()
        self.norm = nn.GroupNorm(2, 8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, stride=2)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = torch.matrix_exp(self.norm(self.act(self.conv1(x))))
        x = functional.interpolate(x, scale_factor=2)
        return self.fc(self.conv2(x).mean((2, 3)))


@pytest.fixture(scope="module")
def odd():
    return {finding.title: finding for finding in analyse(Odd(), (2, 3, 8, 8))}


def figure(finding, name: str):
    return next(each for each in finding.figures if each.name == name)


def test_products_are_known_where_other_layers_have_no_formula(odd):
    forward = 2 * (2 * 64 * 9 * 3 * 8 + 2 * 64 * 9 * 8 * 8 + 2 * 8 * 5)
    found = figure(odd["This network"], "forward FLOPs of convolutions and matrix products")
    assert (found.predicted, found.measured) == (forward, forward)
    backward = 2 * forward - 2 * 2 * 64 * 9 * 3 * 8  # but the image's gradient
    name = "backward FLOPs of convolutions and matrix products"
    found = figure(odd["Backward against forward"], name)
    assert (found.predicted, found.measured) == (backward, backward)


def test_shares_and_ratios_of_a_lower_bound_are_not_given(odd):
    where = odd["Where the FLOPs, the memory and the parameters are"]
    assert "Shares of the FLOPs are not known, since `matrix_exp` has" in where.text
    shares = [each for each in where.figures if "FLOPs" in each.name]
    assert shares
    assert {each.predicted for each in shares} == {None}
    backward = odd["Backward against forward"]
    assert figure(backward, "backward FLOPs by the textbook").predicted is None
    assert figure(backward, "backward against forward by the textbook").predicted is None
    assert "in the layers whose FLOPs are known" in backward.text


def test_no_sentence_compares_what_is_unknown(odd):
    for finding in odd.values():
        assert "unknown" not in finding.text, finding.title
        assert "None" not in finding.text
    assert "whole forward pass is not known" in odd["Depthwise separable convolutions"].text
    assert odd["Twice the channels"].figures  # the group norm follows


@pytest.mark.parametrize(
    ("pooled", "name"),
    [
        (lambda x: functional.adaptive_avg_pool2d(x, 1).flatten(1), "adaptive_avg_pool"),
        (lambda x: x.mean((2, 3)), "mean"),
        (lambda x: x.flatten(2).mean(-1), "mean"),
        (lambda x: functional.avg_pool2d(x, 8).flatten(1), "avg_pool"),
    ],
)
def test_pooling_by_a_call_is_no_missing_pooling(pooled, name):
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 4, 3, padding=1)
            self.fc = nn.Linear(4, 2)

        def forward(self, x):
            return self.fc(pooled(self.conv(x)))

    findings = {finding.title: finding for finding in analyse(Pooled(), (1, 1, 8, 8))}
    text = findings["Global pooling against a flatten head"].text
    assert re.search(rf"`{name}\w*` makes one value of each map, but it is a call", text)


def test_pooling_with_a_window_as_large_as_the_map_is_global():
    layers = (nn.Conv2d(1, 4, 3, padding=1), nn.AvgPool2d(8), nn.Flatten(), nn.Linear(4, 2))
    findings = {f.title: f for f in analyse(nn.Sequential(*layers), (1, 1, 8, 8))}
    text = findings["Global pooling against a flatten head"].text
    assert f"saves {4 * 63 * 2}," in text


def test_a_weight_counts_once_however_often_it_is_used():
    findings = {finding.title: finding for finding in analyse(TinyCNN(), (2, 1, 8, 8))}
    text = findings["Parameters against a fully connected layer"].text
    assert "the 114 weights" in text
    assert f"{2_352 / 114:.2f}×" in text
    conv = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    twice = analyse(nn.Sequential(conv, conv, nn.Flatten()), (2, 1, 4, 4))
    assert any("the 9 weights" in finding.text and "32.00×" in finding.text for finding in twice)


def test_what_has_no_backward_pass_or_no_inner_channels_is_said_so():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
    findings = {f.title: f for f in analyse(network.requires_grad_(False), (1, 1, 4, 4))}
    assert "there is no backward pass" in findings["Checkpointing"].text
    assert "autograd saves 0 B" in findings["This network"].text
    single = {f.title: f for f in analyse(nn.Sequential(nn.Conv2d(1, 2, 3)), (1, 1, 4, 4))}
    assert "no channels between" in single["Twice the channels"].text


def test_runs_of_layers_are_named_by_their_layers():
    findings = {finding.title: finding for finding in analyse(TinyCNN(), (2, 1, 8, 8))}
    text = findings["Checkpointing"].text
    assert "around runs of its layers, `conv1` to `pool1`, `conv2` to `pool2`, `conv3` to" in text
    assert "segment" not in text


def test_a_pair_that_differs_in_nothing_is_no_example():
    title = "Where the FLOPs, the memory and the parameters are"
    same = [nn.Conv2d(4, 4, 3, padding=1) for _ in range(2)]
    texts = [
        next(f.text for f in analyse(nn.Sequential(*layers), (1, 4, 8, 8)) if f.title == title)
        for layers in (same, [nn.Conv2d(4, 8, 2, stride=2), nn.Conv2d(8, 4, 3, padding=1)])
    ]
    assert "the channels' product" not in texts[0]
    assert "the channels' product" not in texts[1]  # nothing but the window changes


def test_a_variant_that_does_not_run_is_refused_in_our_own_words():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)
            self.weight = nn.Parameter(torch.ones(1, 3, 8, 8))

        def forward(self, x):
            return (self.conv(x) * self.weight).mean((2, 3))

    findings = {finding.title: finding for finding in analyse(Residual(), (1, 3, 8, 8))}
    assert findings["Twice the resolution"].text == (
        "Does not apply: so changed, the shapes in the forward of the network do not fit together."
    )


def test_attention_and_recurrent_layers():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches = nn.Conv2d(1, 8, 2, stride=2)
            self.attention = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
            self.recurrent = nn.GRU(8, 8, batch_first=True)
            self.fc = nn.Linear(8, 3)

        def forward(self, x):
            tokens = self.attention(self.patches(x).flatten(2).transpose(1, 2))
            return self.fc(self.recurrent(tokens)[0][:, -1])

    findings = {finding.title: finding for finding in analyse(Mixed(), (2, 1, 4, 4))}
    text = findings["Parameters against a fully connected layer"].text
    assert "to as many features as `fc` reads, 8," in text
    assert findings["Twice the resolution"].figures
    assert "do not fit together" in findings["Twice the channels"].text
    assert findings["Half precision"].figures
