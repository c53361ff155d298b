"""The worked example, one training step of SimpleCNN, by the formulas alone and by autograd."""

import numpy as np
import pytest
import torch

from layerscope import reference
from layerscope.networks.simple_cnn import SimpleCNN

BOUND = 1e-12
CONV = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1)}
POOL = {"kernel_size": (2, 2), "stride": (2, 2), "padding": (0, 0), "dilation": (1, 1)}
LEARNING_RATE = 0.1


def forward(x, w, b, w_fc, b_fc):
    """What every layer returns, in order, and who won in the pooling."""
    convolved = reference.conv_forward(x, w, b, **CONV)
    rectified = reference.relu_forward(convolved)
    pooled, winner = reference.max_pool_forward(rectified, **POOL)
    flat = pooled.reshape(len(pooled), -1)
    return convolved, pooled, winner, flat, reference.linear_forward(flat, w_fc, b_fc)


def backward(dL, x, w, w_fc, convolved, pooled, winner, flat):
    """Gradients of the image and of every parameter, from that of the outputs.

    On absolute values it gives the sums of absolute terms; the ReLU's input keeps its sign and the
    pooling its winners, since they decide only which terms there are.
    """
    d_flat, dw_fc, db_fc = reference.linear_backward(dL, flat, w_fc)
    d_rectified = reference.max_pool_backward(d_flat.reshape(pooled.shape), winner, convolved.shape)
    d_convolved = reference.relu_backward(d_rectified, convolved)
    return *reference.conv_backward(d_convolved, x, w, **CONV), dw_fc, db_fc


@pytest.mark.parametrize("batch", [1, 3])
def test_simple_cnn(batch):
    torch.manual_seed(0)
    network = SimpleCNN().double()
    image = torch.randn(batch, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([[1.0, 0.0]], dtype=torch.float64).repeat(batch, 1)
    output = network(image)
    loss = torch.nn.functional.mse_loss(output, target)
    loss.backward()

    x = image.detach().numpy()
    before = [p.detach().numpy().copy() for p in network.parameters()]
    w, _, w_fc, _ = before
    *kept, y = forward(x, *before)
    convolved, pooled, winner, flat = kept
    magnitude = reference.linear_forward(*map(np.abs, (flat, *before[2:])))
    assert np.all(np.abs(y - output.detach().numpy()) <= BOUND * magnitude)
    ours = reference.mse_forward(y, target.numpy())
    assert abs(ours - loss.item()) <= BOUND * np.mean((magnitude + target.numpy()) ** 2)

    gradients = backward(reference.mse_backward(y, target.numpy()), x, w, w_fc, *kept)
    magnitudes = backward(
        reference.mse_backward(magnitude, -target.numpy()),
        *map(np.abs, (x, w, w_fc)),
        convolved,
        np.abs(pooled),
        winner,
        np.abs(flat),
    )
    leaves = [image, *network.parameters()]
    for dx, leaf, magnitude in zip(gradients, leaves, magnitudes, strict=True):
        assert leaf.grad is not None
        assert np.all(np.abs(dx - leaf.grad.numpy()) <= BOUND * magnitude)

    torch.optim.SGD(network.parameters(), lr=LEARNING_RATE).step()
    for old, dw, size, new in zip(
        before, gradients[1:], magnitudes[1:], network.parameters(), strict=True
    ):
        updated, _ = reference.sgd_step(old, dw, LEARNING_RATE)
        terms = np.abs(old) + LEARNING_RATE * size
        assert np.all(np.abs(updated - new.detach().numpy()) <= BOUND * terms)
        assert not np.array_equal(updated, old)
