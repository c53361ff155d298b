from dataclasses import replace

import numpy as np
import pytest
import torch
from captures import assert_agrees, assert_explained, captured, explainer
from torch import nn
from torch.nn import functional as F


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("settings", [{}, {"affine": False}, {"track_running_stats": False}])
@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        (nn.BatchNorm1d, (5, 3)),
        (nn.BatchNorm1d, (4, 3, 5)),
        (nn.BatchNorm2d, (3, 3, 4, 5)),
        (nn.BatchNorm3d, (2, 3, 2, 3, 4)),
    ],
)
def test_all_modes(norm, shape, settings, train):
    layer = norm(3, eps=1e-3, **settings).train(train)
    with torch.no_grad():
        for array in (*layer.parameters(), *layer.buffers()):
            if array.is_floating_point():
                array.copy_(torch.rand(array.shape) + 0.5)
    assert_explained(captured(layer, shape))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.LayerNorm(5, eps=1e-3), (3, 5)),
        (nn.LayerNorm(4), (4,)),
        (nn.LayerNorm((3, 4)), (2, 2, 3, 4)),
        (nn.LayerNorm(4, elementwise_affine=False), (2, 3, 4)),
        (nn.LayerNorm(4, bias=False), (2, 3, 4)),
        (nn.GroupNorm(2, 6), (2, 6)),
        (nn.GroupNorm(3, 6, eps=1e-3), (3, 6, 2, 3)),
        (nn.GroupNorm(1, 2, affine=False), (2, 2, 4)),
        (lambda x: F.layer_norm(x, (4,)), (3, 4)),
        (lambda x: F.group_norm(x, 2), (3, 4, 2)),
        (nn.RMSNorm(5), (3, 5)),
        (nn.RMSNorm((3, 4), eps=1e-3), (2, 2, 3, 4)),
        (nn.RMSNorm(4, elementwise_affine=False), (2, 4)),
        (lambda x: F.rms_norm(x, (4,)), (3, 4)),
        (nn.InstanceNorm1d(3, affine=True), (2, 3, 5)),
        (nn.InstanceNorm2d(3), (2, 3, 4, 5)),
        (nn.InstanceNorm2d(3, eps=1e-3, affine=True, track_running_stats=True), (2, 3, 4, 5)),
        (nn.InstanceNorm2d(3, affine=True, track_running_stats=True).eval(), (2, 3, 4, 5)),
        (nn.InstanceNorm3d(2, affine=True), (2, 2, 2, 3, 4)),
    ],
)
def test_norms_without_a_batch(layer, shape):
    if isinstance(layer, nn.Module):
        with torch.no_grad():
            for array in layer.parameters():
                array.copy_(torch.rand(array.shape) + 0.5)
    assert_explained(captured(layer, shape))


def test_a_weight_that_several_groups_share_has_terms_of_each():
    call = captured(nn.GroupNorm(2, 4), (3, 4, 2))
    (value,) = explainer(call).gradient(call, "w", (1,))
    assert value.num_terms == 6
    scale = value.groups[0].factors[2]
    assert len({*scale.values.tolist()}) == 3
    assert [len(argument) for argument in scale.origin.arguments] == [6]


def test_statistics_and_their_gradients_on_the_way():
    torch.manual_seed(0)
    layer = nn.BatchNorm2d(2)
    x = torch.randn(3, 2, 4, 4, dtype=torch.float64)
    _, mean, inverse_std = torch.native_batch_norm(x, None, None, None, None, True, 0.1, layer.eps)
    statistics = {"mean": mean.numpy(), "inverse_std": inverse_std.numpy()}
    call = captured(layer, tuple(x.shape), image=x.clone())
    for name, seen in statistics.items():
        np.testing.assert_array_equal(call.statistics[name], seen)
    *chain, _ = explainer(call).gradient(call, "x", (0, 1, 0, 0))
    assert [value.name for value in chain] == [
        "mean[1]",
        "var[1]",
        "inverse_std[1]",
        "dL/dvar[1]",
        "dL/dmean[1]",
    ]
    for value in (chain[0], chain[2]):
        assert_agrees(value)
    assert [value.num_terms for value in chain] == [48, 48, 1, 48, 96]
    weight, bias = (torch.from_numpy(call.operands[symbol]) for symbol in "wb")
    data = torch.from_numpy(call.operands["x"])
    leaf_mean = mean.clone().requires_grad_()
    var = ((data - leaf_mean[:, None, None]) ** 2).mean((0, 2, 3))
    scale = weight / torch.sqrt(var + layer.eps)
    y = (data - leaf_mean[:, None, None]) * scale[:, None, None] + bias[:, None, None]
    dy = torch.from_numpy(call.output_gradient)
    dmean, dvar = torch.autograd.grad(y, [leaf_mean, var], dy)
    for value, expected in ((chain[3], dvar), (chain[4], dmean)):
        assert abs(value.computed - float(expected[1])) <= 1e-12 * value.magnitude


def test_a_frozen_norm_has_no_gradient_to_compare_with():
    layer = nn.BatchNorm2d(2)
    call = captured(layer, (2, 2, 3, 3))
    frozen = replace(call, gradients={})
    *_, value = explainer(call).gradient(frozen, "w", (1,))
    assert value.actual is None
    assert np.isfinite(value.computed)
