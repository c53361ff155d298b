import math

import pytest
import torch
from torch import nn

from layerscope.config.schema import AdamConfig, MuonConfig, SGDConfig
from layerscope.networks.cifar_cnn import CifarCNN
from layerscope.training.optimizers import build_optimizer, orthogonal

MUON = MuonConfig(
    name="muon", lr=0.05, momentum=0.9, weight_decay=0.01, newton_schulz_steps=5,
    sgd_lr=0.1, sgd_momentum=0.8, sgd_weight_decay=0.0,
)  # fmt: skip


@pytest.mark.parametrize("shape", [(32, 27), (27, 32), (64, 288), (5, 5)])
def test_orthogonal_brings_singular_values_near_one(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonal(matrix, steps=5))
    assert values.min() > 0.3 if shape != (5, 5) else values.min() > 0
    assert values.max() < 1.3


def test_orthogonal_is_the_newton_schulz_iteration():
    matrix = torch.randn(64, 288, generator=torch.Generator().manual_seed(1))
    current = matrix / matrix.norm()
    for _ in range(5):
        gram = current @ current.T
        current = 3.4445 * current + (-4.7750 * gram + 2.0315 * gram @ gram) @ current
    torch.testing.assert_close(orthogonal(matrix, 5), current, atol=2e-5, rtol=0)


def test_muon_follows_its_equations():
    network = nn.Sequential(nn.Conv2d(2, 8, 1, bias=True))
    weight, bias = network[0].weight, network[0].bias
    optimizer = build_optimizer(network, MUON)
    expected_weight, expected_bias = weight.detach().clone(), bias.detach().clone()
    matrix_momentum, vector_momentum = torch.zeros(8, 2), torch.zeros(8)
    for step in range(3):
        weight.grad = torch.randn(8, 2, 1, 1, generator=torch.Generator().manual_seed(step))
        bias.grad = torch.randn(8, generator=torch.Generator().manual_seed(10 + step))
        optimizer.step()
        matrix_momentum = 0.9 * matrix_momentum + weight.grad.view(8, 2)
        update = orthogonal(weight.grad.view(8, 2) + 0.9 * matrix_momentum, 5)
        expected_weight *= 1 - 0.05 * 0.01
        expected_weight -= 0.05 * math.sqrt(8 / 2) * update.view_as(weight)
        vector_momentum = 0.8 * vector_momentum + bias.grad
        expected_bias -= 0.1 * (bias.grad + 0.8 * vector_momentum)
    torch.testing.assert_close(weight.detach(), expected_weight)
    torch.testing.assert_close(bias.detach(), expected_bias)


def test_the_sgd_part_is_torchs_sgd():
    ours, theirs = nn.Linear(3, 2), nn.Linear(3, 2)
    theirs.load_state_dict(ours.state_dict())
    config = MUON.model_copy(update={"sgd_weight_decay": 0.0})
    optimizers = (
        build_optimizer(ours, config),
        torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.8, nesterov=True),
    )
    for step in range(4):
        inputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
        for network, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            network(inputs).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(ours.weight, theirs.weight)


@pytest.mark.parametrize(
    "config",
    [
        MUON,
        SGDConfig(name="sgd", lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4),
        AdamConfig(name="adam", lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0),
        AdamConfig(name="adamw", lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01),
    ],
)
def test_every_trained_parameter_is_in_one_group(config):
    network = CifarCNN()
    network.block1.requires_grad_(False)
    optimizer = build_optimizer(network, config)
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in network.parameters() if p.requires_grad)
    assert all(group["base_lr"] == group["lr"] for group in optimizer.param_groups)
