"""The size formulas that a document shows give the sizes that torch makes."""

import pytest
import torch
from torch import nn

from layerscope.networks.layer_calls import network_calls
from layerscope.report.explain.content import is_in_a_row, pattern_line
from layerscope.report.explain.layers import padding_sentence, size_rule
from layerscope.report.explain.overview import overview_drawing
from layerscope.theory import cost_table, textbook_units

LAYERS = (
    (nn.Conv2d(2, 3, 3, padding=1), (2, 2, 9, 7)),
    (nn.Conv2d(2, 4, (3, 2), stride=(2, 3), padding=(0, 1), dilation=2, groups=2), (1, 2, 11, 12)),
    (nn.Conv1d(2, 3, 4, stride=3), (2, 2, 17)),
    (nn.Conv3d(1, 2, 2, padding=1), (1, 1, 4, 5, 6)),
    (nn.Conv2d(2, 3, 3, padding="valid"), (2, 2, 9, 7)),
    (nn.MaxPool2d(3, stride=2, padding=1, dilation=1), (2, 2, 9, 7)),
    (nn.MaxPool2d(2), (2, 2, 9, 7)),
    (nn.AvgPool2d(2, ceil_mode=True), (2, 2, 9, 7)),
    (nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1, output_padding=1), (2, 2, 5, 4)),
)


@pytest.mark.parametrize(("layer", "shape"), LAYERS)
def test_the_formulas_give_the_size_that_the_layer_makes(layer, shape):
    (spec,) = network_calls(nn.Sequential(layer), shape).layers
    rule = size_rule(spec)
    made = layer(torch.zeros(shape)).shape[2:]
    assert rule is not None
    assert tuple(formula.value for formula in rule.formulas) == tuple(made) == spec.output_shape[2:]


def test_a_last_window_outside_is_said_to_be_left_out():
    layer = nn.MaxPool2d(2, stride=3, ceil_mode=True, padding=1)
    (spec,) = network_calls(nn.Sequential(layer), (1, 1, 5, 5)).layers
    rule = size_rule(spec)
    assert rule is not None
    left_out = tuple(formula.value for formula in rule.formulas) != spec.output_shape[2:]
    assert ("left out" in rule.note) == left_out


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kernel_size": 3, "padding": 1}, "the size stays"),
        ({"kernel_size": 3, "padding": "same"}, "Same padding, by name"),
        ({"kernel_size": 3}, "Valid padding"),
        ({"kernel_size": 4, "padding": 1}, "even"),
        ({"kernel_size": 3, "padding": 1, "stride": 2}, "the stride is not 1"),
        ({"kernel_size": 3, "padding": 2}, ""),
    ],
)
def test_what_padding_does_is_said(settings, words):
    (spec,) = network_calls(nn.Sequential(nn.Conv2d(1, 1, **settings)), (1, 1, 8, 8)).layers
    assert words in padding_sentence(spec)
    assert bool(words) == bool(padding_sentence(spec))


def test_repeated_runs_are_written_once():
    def block():
        return [*(nn.Conv2d(1, 1, 3, padding=1), nn.ReLU()) * 2, nn.MaxPool2d(2)]

    network = nn.Sequential(*block(), *block(), nn.AdaptiveAvgPool2d((1, 2)), nn.Flatten())
    specs = network_calls(network, (1, 1, 8, 8)).layers
    line = "Input → ((Conv → ReLU) × 2 → MaxPool) × 2 → AdaptiveAvgPool → Flatten"
    assert pattern_line(specs) == line
    assert is_in_a_row(specs)
    network[-2] = nn.AdaptiveAvgPool2d(1)
    specs = network_calls(network, (1, 1, 8, 8)).layers
    assert pattern_line(specs).endswith("→ GlobalAvgPool → Flatten")


def test_branches_are_not_in_a_row():
    class Residual(nn.Module):
        def forward(self, x):
            return x.relu() + x.sigmoid()

    assert not is_in_a_row(network_calls(Residual(), (1, 2)).layers)


def test_a_window_in_the_padding_behind_is_left_out():
    pool = nn.Sequential(nn.AvgPool2d(2, 2, padding=1, ceil_mode=True))
    (spec,) = network_calls(pool, (1, 1, 4, 7)).layers
    assert spec.output_shape == (1, 1, 3, 4)
    rule = size_rule(spec)
    assert "The last of the 5 windows of $W$" in rule.note
    assert "5 - 1 = 4" in rule.note
    assert "$H$" not in rule.note


def test_the_drawing_has_every_layer_and_of_a_large_network_its_blocks():
    blocks = {f"block{n}": nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU()) for n in range(30)}
    network = nn.Sequential()
    for name, block in blocks.items():
        network.add_module(name, block)
    for size, rows in ((10, 20), (30, 30)):
        specs = network_calls(network[:size], (1, 1, 4, 4))
        costs = cost_table(specs.run, textbook_units(specs.run), 4)
        drawing = overview_drawing(costs, specs.layers, "net")
        assert drawing.count('class="name"') == rows + 1
        assert drawing.count('class="block-name"') == (size if size == 10 else 0)
