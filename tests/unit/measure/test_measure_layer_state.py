"""Elements, parameters and buffers in the activation record."""

import subprocess
import sys

import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from layerscope.measure import Step, activations_and_flops, flop_counts, step_activations
from layerscope.networks.cifar_cnn import CifarCNN


def rows_of(network, image):
    return {row.layer: row for row in step_activations(Step(network, (image,))).layers}


def sizes(row):
    return row.num_parameters, row.parameter_bytes, row.buffer_bytes


def test_cifar_cnn():
    network = CifarCNN()
    rows = rows_of(network, torch.randn(32, 3, 32, 32))
    assert sizes(rows["block1.conv"]) == (896, 3584, 0)
    assert sizes(rows["block1.bn"]) == (64, 256, 2 * 32 * 4 + 8)
    assert sizes(rows["block1.relu"]) == (0, 0, 0)
    assert sizes(rows["fc"]) == (1290, 5160, 0)
    assert rows["flatten"].output_elements == rows["gap"].output_elements == 32 * 128
    assert sum(row.num_parameters for row in rows.values()) == 94_986
    assert sum(row.buffer_bytes for row in rows.values()) == 1_792 + 24
    assert sum(row.output_elements for row in rows.values() if row.output_bytes) * 4 == 23_872_768


def test_low_precision_parameters_have_their_own_size():
    rows = rows_of(nn.Sequential(nn.Linear(3, 5).bfloat16()), torch.randn(2, 3).bfloat16())
    assert sizes(rows["0"]) == (20, 40, 0)


def test_shared_ones_belong_to_the_first_layer_that_has_them():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
            self.second.weight = self.first.weight
            self.scale = nn.Parameter(torch.ones(3))
            self.register_buffer("table", torch.ones(7, 3))

        def forward(self, x):
            x = self.second(self.first(self.first(x)))
            x = x * self.scale + self.table[:1]
            return F.linear(x, self.second.weight), x * self.scale

    rows = rows_of(Shared(), torch.randn(2, 3))
    assert {layer: sizes(row) for layer, row in rows.items()} == {
        "first": (12, 48, 0),
        "second": (3, 12, 0),
        "mul": (3, 12, 0),
        "getitem": (0, 0, 84),
        "add": (0, 0, 0),
        "linear": (0, 0, 0),
        "mul_1": (0, 0, 0),
    }
    assert rows["first"].output_elements == 2 * 2 * 3
    assert rows["getitem"].output_elements == 3


def test_every_parameter_of_a_real_network_has_one_owner():
    network = torchvision.models.mobilenet_v3_small(weights=None)
    rows = rows_of(network, torch.randn(2, 3, 64, 64)).values()
    assert sum(row.num_parameters for row in rows) == sum(p.numel() for p in network.parameters())
    assert sum(row.buffer_bytes for row in rows) == sum(b.nbytes for b in network.buffers())


def test_all_tensors_that_a_layer_returns_count():
    class Halves(nn.Module):
        def forward(self, x):
            return x.chunk(2, dim=1)

    rows = rows_of(Halves(), torch.randn(2, 4))
    assert rows["chunk"].output_elements == 8
    assert rows["chunk"].output_bytes == 0


def test_one_step_for_activations_and_flops_says_what_two_say():
    network = torchvision.models.resnet18(weights=None)
    step = Step(network, (torch.randn(2, 3, 64, 64),), autocast=torch.bfloat16)
    record, flops = activations_and_flops(step)
    assert record == step_activations(step)
    assert flops == flop_counts(step)


def test_importing_the_instruments_imports_no_lightning():
    code = "import sys, layerscope.measure; print({'lightning', 'hydra'} & set(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"
