"""Which weights and which image a network is explained with."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from layerscope.base.errors import UserError
from layerscope.dry_run import Shape
from layerscope.networks.tiny_cnn import TinyCNN

# A worked example of TinyCNN of which only these numbers are known. Of conv2, conv3 and conv_out it
# printed one output channel each, with four decimals.
_CONV1_WEIGHT = (
    (((0.3, -0.5, 0.2), (0.7, 0.4, -0.1), (-0.3, 0.8, 0.5)),),
    (((0.2, 0.5, -0.3), (-0.4, 0.6, 0.1), (0.7, -0.2, 0.4)),),
)
_CONV1_BIAS = (0.1, -0.2)
_CONV2_WEIGHT = (
    ((-0.0564, 0.2138, -0.0643), (-0.1281, 0.0525, 0.1127), (0.0742, 0.2271, -0.2033)),
    ((-0.1295, -0.2122, 0.0403), (0.0277, 0.1636, -0.0793), (0.1491, 0.2250, -0.1543)),
)
_CONV2_BIAS = 0.1739
_CONV3_WEIGHT = (0.3082, -0.3845, -0.1656, -0.2766)
_CONV3_BIAS = -0.4827
_CONV_OUT_WEIGHT = (((0.2235, -0.3527), (0.1200, -0.2583)), ((0.0408, -0.2911), (0.3003, -0.0986)))
_CONV_OUT_BIAS = -0.0094
# What layers were seen to read: conv3 at (1, 1), its channels; conv_out everywhere, its channel 1.
_CONV3_READS = (0.5479, 0.1062, 0.4359, 0.3585)
_CONV_OUT_READS = ((0.4418, 0.6091), (0.6356, 0.6736))


# Upper bound on the numbers in the input, and in all layers together. Each is looked at, and those
# that make up the gradient of a weight are written down: 2^26 take a minute or two and some
# gigabytes.
MAX_NUMBERS = 2**26


def check_size(what: str, count: int) -> None:
    """A UserError if these are too many numbers to explain."""
    if count > MAX_NUMBERS:
        raise UserError(
            f"{what} {count:,} numbers, at most {MAX_NUMBERS:,} are explained: lower batch_size or "
            "the size of the images"
        )


def random_image(shape: Shape, seed: int) -> Tensor:
    """Standard normal values, float32; the global generators are left alone.

    Raises:
        UserError: it is too large to explain.
    """
    check_size(f"an input of shape {shape} has", math.prod(shape))
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def worked_image() -> Tensor:
    """(1, 1, 8, 8), of the worked example."""
    row, column = np.indices((8, 8))
    image = (row + column) / 14 + np.where((row + column) % 2 == 0, 0.2, -0.1)
    image[3:5] += 0.3
    image[:, 3:5] += 0.3
    return torch.tensor(image.clip(-1, 1), dtype=torch.float32)[None, None]


def worked_network(seed: int) -> TinyCNN:
    """TinyCNN with the worked example's weights.

    Where the example printed none they are random, but for as many as it takes to make every number
    true that it printed of later layers: biases of conv2, and the second channel of conv3.
    """
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        network = TinyCNN()
    with torch.no_grad():
        _put(network.conv1, slice(None), _CONV1_WEIGHT, _CONV1_BIAS)
        _put(network.conv2, 0, _CONV2_WEIGHT, _CONV2_BIAS)
        _put(network.conv3, 0, np.reshape(_CONV3_WEIGHT, (4, 1, 1)), _CONV3_BIAS)
        _put(network.conv_out, 0, _CONV_OUT_WEIGHT, _CONV_OUT_BIAS)
        network = network.double()
        seen = network.pool1(F.relu(network.conv1(worked_image().double())))
        for channel in (1, 2, 3):
            _fit_bias(network.conv2, channel, seen, _CONV3_READS[channel])
        seen = network.pool2(F.relu(network.conv2(seen)))
        _solve(network.conv3, 1, seen[0].flatten(1).T, torch.tensor(_CONV_OUT_READS).flatten())
    return network.float()


def _put(layer: nn.Conv2d, channel: int | slice, weight: Any, bias: Any) -> None:
    assert layer.bias is not None
    layer.weight[channel] = torch.tensor(np.array(weight), dtype=layer.weight.dtype)
    layer.bias[channel] = torch.tensor(bias, dtype=layer.bias.dtype)


def _fit_bias(layer: nn.Conv2d, channel: int, inputs: Tensor, wanted: float) -> None:
    """Set the bias with which ReLU and average pooling make `wanted` of the last 2×2 window."""
    assert layer.bias is not None
    before = layer(inputs)[0, channel, -2:, -2:] - layer.bias[channel]
    layer.bias[channel] = _bias_for_mean(before, wanted)


def _bias_for_mean(before: Tensor, wanted: float) -> Tensor:
    """The b with mean(relu(before + b)) = wanted > 0: one piece of a line for each number alive."""
    largest_first = before.flatten().sort(descending=True).values
    for num_alive in range(1, before.numel() + 1):
        bias = (wanted * before.numel() - largest_first[:num_alive].sum()) / num_alive
        if num_alive == before.numel() or largest_first[num_alive] + bias <= 0:
            return bias
    raise AssertionError("the last piece has no end")


def _solve(layer: nn.Conv2d, channel: int, inputs: Tensor, outputs: Tensor) -> None:
    """The smallest weights and bias with which a 1×1 convolution makes outputs (P,) of inputs
    (P, C)."""
    assert layer.bias is not None
    system = torch.cat([inputs, torch.ones(len(inputs), 1, dtype=inputs.dtype)], 1)
    solution = torch.linalg.lstsq(system, outputs.to(inputs.dtype), driver="gelsd").solution
    layer.weight[channel] = solution[:-1].reshape(layer.weight[channel].shape)
    layer.bias[channel] = solution[-1]
