"""reference/ against autograd in float64.

A number is a sum of terms, and a sum is as exact as its terms are large: the two may differ by at
most 1e-12 times the sum of the terms' absolute values. That sum comes from the same function of
reference/, run on absolute values (`np.abs`), wherever its terms are products of its arguments;
a batch norm's and a softmax's terms have differences in them and are added up here.
"""

import inspect

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from layerscope import reference
from layerscope.reference import layers, losses, pooling, updates, windows

PARTS = (layers, losses, pooling, updates, windows)
BOUND = 1e-12
few = settings(deadline=None, derandomize=True, max_examples=12)
seeds = st.integers(0, 2**32 - 1)


def assert_agree(ours, truth, magnitude):
    """Within the bound; a magnitude of 0, of an empty sum, demands equality."""
    truth = truth.detach().numpy() if isinstance(truth, torch.Tensor) else np.asarray(truth)
    assert np.shape(ours) == truth.shape == np.shape(magnitude)
    difference = np.abs(ours - truth)
    assert np.all(difference <= BOUND * np.abs(magnitude)), (difference, magnitude)


def normal(seed, *shapes):
    random = np.random.default_rng(seed)
    return [random.normal(size=shape) for shape in shapes]


def tensors(*arrays):
    return [torch.tensor(array, requires_grad=True) for array in arrays]


def absolute(*arrays):
    return [np.abs(array) for array in arrays]


def test_no_torch():
    for module in (reference, *PARTS):
        assert "import torch" not in inspect.getsource(module)
        assert "from torch" not in inspect.getsource(module)


@st.composite
def convolutions(draw, dims):
    """Input, weight and bias shape, and (stride, padding, dilation, groups)."""
    per_dim = lambda low, high: draw(st.tuples(*[st.integers(low, high)] * dims))  # noqa: E731
    groups = draw(st.integers(1, 2))
    inputs, outputs = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    kernel, stride, padding = per_dim(1, 3), per_dim(1, 3), per_dim(0, 2)
    dilation = per_dim(1, 2)
    spare = per_dim(0, 2)
    size = tuple(
        max(1, d * (k - 1) + 1 - 2 * p) + more
        for k, p, d, more in zip(kernel, padding, dilation, spare, strict=True)
    )
    x = (draw(st.integers(1, 2)), inputs * groups, *size)
    return x, (outputs * groups, inputs, *kernel), (stride, padding, dilation, groups)


@pytest.mark.parametrize(
    ("dims", "framework"), [(1, F.conv1d), (2, F.conv2d), (3, F.conv3d)], ids=["1d", "2d", "3d"]
)
def test_conv(dims, framework):
    @settings(few, max_examples={1: 15, 2: 25, 3: 5}[dims])
    @given(convolutions(dims), seeds)
    def agrees(convolution, seed):
        x_shape, w_shape, how = convolution
        x, w, b = normal(seed, x_shape, w_shape, w_shape[0])
        leaves = tensors(x, w, b)
        truth = framework(*leaves, *how)
        y = reference.conv_forward(x, w, b, *how)
        assert_agree(y, truth, reference.conv_forward(*absolute(x, w, b), *how))
        (dy,) = normal(seed + 1, y.shape)
        gradients = torch.autograd.grad(truth, leaves, torch.tensor(dy))
        magnitudes = reference.conv_backward(*absolute(dy, x, w), *how)
        for ours, autograd, magnitude in zip(
            reference.conv_backward(dy, x, w, *how), gradients, magnitudes, strict=True
        ):
            assert_agree(ours, autograd, magnitude)

    agrees()


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
def test_conv_same_and_valid_padding():
    x, w = normal(0, (2, 2, 5, 6), (3, 2, 4, 3))
    ones = (1, 1)
    # a dilated kernel of 4 and one of 3 reach over 6 and 2 more: 6 = 3 + 3, 2 = 1 + 1
    ours = reference.conv_forward(x, w, None, ones, (3, 1), (2, 1))
    truth = F.conv2d(*tensors(x, w), padding="same", dilation=(2, 1))
    assert_agree(ours, truth, reference.conv_forward(*absolute(x, w), None, ones, (3, 1), (2, 1)))
    # an even kernel reaches over 3 more: the framework puts 1 before and 2 behind
    padded = np.pad(x, [(0, 0), (0, 0), (1, 2), (1, 1)])
    ours = reference.conv_forward(padded, w, None, ones, (0, 0), ones)
    truth = F.conv2d(*tensors(x, w), padding="same")
    assert_agree(
        ours, truth, reference.conv_forward(*absolute(padded, w), None, ones, (0, 0), ones)
    )
    ours = reference.conv_forward(x, w, None, ones, (0, 0), ones)
    truth = F.conv2d(*tensors(x, w), padding="valid")
    assert_agree(ours, truth, reference.conv_forward(*absolute(x, w), None, ones, (0, 0), ones))


@few
@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 4), seeds)
def test_linear(batch, inputs, outputs, seed):
    x, w, b, dy = normal(seed, (batch, inputs), (outputs, inputs), outputs, (batch, outputs))
    leaves = tensors(x, w, b)
    truth = F.linear(*leaves)
    y = reference.linear_forward(x, w, b)
    assert_agree(y, truth, reference.linear_forward(*absolute(x, w, b)))
    gradients = torch.autograd.grad(truth, leaves, torch.tensor(dy))
    magnitudes = reference.linear_backward(*absolute(dy, x, w))
    for ours, autograd, magnitude in zip(
        reference.linear_backward(dy, x, w), gradients, magnitudes, strict=True
    ):
        assert_agree(ours, autograd, magnitude)
    without = reference.linear_forward(x, w, None)
    assert np.array_equal(without, reference.linear_forward(x, w, 0 * b))


def test_relu_is_exact():
    x = np.array([-2.0, -1e-300, -0.0, 0.0, 1e-300, 3.0, np.nan])
    (leaf,) = tensors(x)
    dy = np.arange(1.0, 8.0)
    np.testing.assert_array_equal(reference.relu_forward(x), leaf.relu().detach())
    (truth,) = torch.autograd.grad(leaf.relu(), leaf, torch.tensor(dy))
    np.testing.assert_array_equal(reference.relu_backward(dy, x), truth)


@st.composite
def poolings(draw):
    """Input shape, (kernel_size, stride, padding), dilation, ceil_mode."""
    pair = lambda low, high: draw(st.tuples(*[st.integers(low, high)] * 2))  # noqa: E731
    kernel, stride, dilation = pair(1, 3), pair(1, 3), pair(1, 2)
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    size = tuple(
        d * (k - 1) + 1 + more for k, d, more in zip(kernel, dilation, pair(0, 3), strict=True)
    )
    x_shape = (draw(st.integers(1, 2)), draw(st.integers(1, 2)), *size)
    return x_shape, (kernel, stride, padding), dilation, draw(st.booleans())


@settings(few, max_examples=30)
@given(poolings(), st.sampled_from([0.0, 0.1]), seeds)
def test_max_pool(pooling, share_of_nans, seed):
    """Values are small integers, so that most windows have a tie."""
    x_shape, how, dilation, ceil_mode = pooling
    random = np.random.default_rng(seed)
    x = random.integers(-2, 2, x_shape).astype(float)
    x[random.random(x_shape) < share_of_nans] = np.nan
    x[random.random(x_shape) < share_of_nans] = -np.inf
    (leaf,) = tensors(x)
    truth, winner = F.max_pool2d(leaf, *how, dilation, ceil_mode, return_indices=True)
    ours = reference.max_pool_forward(x, *how, dilation, ceil_mode)
    np.testing.assert_array_equal(ours[0], truth.detach())
    np.testing.assert_array_equal(ours[1], winner)
    (dy,) = normal(seed, ours[0].shape)
    (autograd,) = torch.autograd.grad(truth, leaf, torch.tensor(dy))
    dx, magnitude = (reference.max_pool_backward(g, ours[1], x_shape) for g in (dy, np.abs(dy)))
    assert_agree(dx, autograd, magnitude)


@settings(few, max_examples=30)
@given(poolings(), st.booleans(), st.sampled_from([None, 1, 5]), seeds)
def test_avg_pool(pooling, count_include_pad, divisor, seed):
    x_shape, sizes, _, ceil_mode = pooling
    how = (*sizes, ceil_mode, count_include_pad, divisor)
    (x,) = normal(seed, x_shape)
    (leaf,) = tensors(x)
    truth = F.avg_pool2d(leaf, *how)
    y = reference.avg_pool_forward(x, *how)
    assert_agree(y, truth, reference.avg_pool_forward(np.abs(x), *how))
    (dy,) = normal(seed + 1, y.shape)
    (autograd,) = torch.autograd.grad(truth, leaf, torch.tensor(dy))
    dx, magnitude = (reference.avg_pool_backward(g, x_shape, *how) for g in (dy, np.abs(dy)))
    assert_agree(dx, autograd, magnitude)


@few
@given(st.tuples(*[st.integers(1, 7)] * 2), st.tuples(*[st.integers(1, 5)] * 2), seeds)
def test_adaptive_avg_pool(size, output_size, seed):
    """Also outputs larger than the input, and windows that overlap."""
    x_shape = (2, 2, *size)
    x, dy = normal(seed, x_shape, (2, 2, *output_size))
    (leaf,) = tensors(x)
    truth = F.adaptive_avg_pool2d(leaf, output_size)
    y, magnitude = (reference.adaptive_avg_pool_forward(v, output_size) for v in (x, np.abs(x)))
    assert_agree(y, truth, magnitude)
    (autograd,) = torch.autograd.grad(truth, leaf, torch.tensor(dy))
    dx, magnitude = (reference.adaptive_avg_pool_backward(g, x_shape) for g in (dy, np.abs(dy)))
    assert_agree(dx, autograd, magnitude)


batches = st.tuples(st.integers(2, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))


def by_channel(vector):
    return vector.reshape(1, -1, 1, 1)


def batch_norm_magnitudes(dy, x, w, mean, var, eps):
    """Sums of absolute terms, those of dL/dmean and dL/dvar in a sum that has these in it."""
    sum_channel = lambda terms: terms.sum(axis=(0, 2, 3))  # noqa: E731
    M = x.size / x.shape[1]
    deviation, r = np.abs(x - by_channel(mean)), 1 / np.sqrt(var + eps)
    scaled = np.abs(dy) * by_channel(np.abs(w) * r)
    dw = sum_channel(np.abs(dy) * deviation * by_channel(r))
    dvar = sum_channel(scaled * deviation) * r**2 / 2
    through_var = by_channel(dvar) * 2 / M * deviation
    dmean = sum_channel(scaled + through_var)
    dx = scaled + through_var + by_channel(dmean) / M
    return reference.BatchNormGradients(dx, dw, sum_channel(np.abs(dy)), dmean, dvar)


@few
@given(batches, st.sampled_from([1e-5, 0.1]), st.sampled_from([0.0, 5.0]), seeds)
def test_batch_norm_in_training(shape, eps, offset, seed):
    """The framework's own, and its statistics and their gradients as autograd has them."""
    x, w, b, dy = normal(seed, shape, shape[1], shape[1], shape)
    x += offset
    leaves = tensors(x, w, b)
    truth = F.batch_norm(leaves[0], None, None, *leaves[1:], training=True, eps=eps)
    y, mean, var = reference.batch_norm_forward(x, w, b, eps)
    mean_there = leaves[0].mean((0, 2, 3))
    var_there = ((leaves[0] - by_channel(mean_there)) ** 2).mean((0, 2, 3))
    assert_agree(mean, mean_there, np.abs(x).mean((0, 2, 3)))
    assert_agree(var, var_there, var)
    terms = np.abs(y - by_channel(b)) + by_channel(np.abs(b))
    assert_agree(y, truth, terms)

    ours = reference.batch_norm_backward(dy, x, w, eps)
    there = torch.autograd.grad(truth, leaves, torch.tensor(dy))
    by_hand = (leaves[0] - by_channel(mean_there)) / by_channel(var_there + eps).sqrt()
    by_hand = by_hand * by_channel(leaves[1]) + by_channel(leaves[2])
    through = torch.autograd.grad(by_hand, (mean_there, var_there), torch.tensor(dy))
    magnitudes = batch_norm_magnitudes(dy, x, w, mean, var, eps)
    for mine, autograd, magnitude in zip(ours, (*there, *through), magnitudes, strict=True):
        assert_agree(mine, autograd, magnitude)


@few
@given(batches, seeds)
def test_batch_norm_in_evaluation(shape, seed):
    """The running statistics are constants, whose gradients are not passed on to x."""
    x, w, b, mean, dy = normal(seed, shape, *[shape[1]] * 3, shape)
    (var,) = absolute(*normal(seed + 1, shape[1]))
    leaves = tensors(x, w, b, mean, var)
    r = by_channel(leaves[4] + 1e-5).rsqrt()
    by_hand = (leaves[0] - by_channel(leaves[3])) * r * by_channel(leaves[1])
    by_hand = by_hand + by_channel(leaves[2])
    running = map(torch.tensor, (mean, var))
    truth = F.batch_norm(leaves[0], *running, *leaves[1:3], eps=1e-5)
    y, *_ = reference.batch_norm_forward(x, w, b, 1e-5, (mean, var))
    assert_agree(y, truth, np.abs(y - by_channel(b)) + by_channel(np.abs(b)))
    there = torch.autograd.grad(truth, leaves[:3], torch.tensor(dy))
    through = torch.autograd.grad(by_hand, leaves[3:], torch.tensor(dy))
    ours = reference.batch_norm_backward(dy, x, w, 1e-5, (mean, var))
    magnitudes = batch_norm_magnitudes(dy, x, w, mean, var, 1e-5)
    r = by_channel(1 / np.sqrt(var + 1e-5))
    scaled = np.abs(dy) * r * by_channel(np.abs(w))
    magnitudes = magnitudes._replace(dx=scaled, dmean=scaled.sum((0, 2, 3)))
    for mine, autograd, magnitude in zip(ours, (*there, *through), magnitudes, strict=True):
        assert_agree(mine, autograd, magnitude)


logits = st.tuples(st.integers(1, 4), st.integers(1, 6))
scales = st.sampled_from([0.1, 1.0, 30.0])


@few
@given(logits, scales, seeds)
def test_softmax(shape, scale, seed):
    x, dy = normal(seed, shape, shape)
    (leaf,) = tensors(scale * x)
    truth = leaf.softmax(1)
    y = reference.softmax_forward(scale * x)
    assert_agree(y, truth, y)
    (autograd,) = torch.autograd.grad(truth, leaf, torch.tensor(dy))
    terms = np.abs(dy) * y
    magnitude = terms + terms.sum(1, keepdims=True) * y
    assert_agree(reference.softmax_backward(dy, y), autograd, magnitude)


@settings(few, max_examples=25)
@given(logits, scales, st.sampled_from([0.0, 0.1, 1.0]), seeds)
def test_cross_entropy(shape, scale, smoothing, seed):
    (x,) = normal(seed, shape)
    x *= scale
    target = np.random.default_rng(seed).integers(0, shape[1], shape[0])
    (leaf,) = tensors(x)
    truth = F.cross_entropy(leaf, torch.tensor(target), label_smoothing=smoothing)
    q = smoothing / shape[1] + (1 - smoothing) * np.eye(shape[1])[target]
    largest = x.max(1, keepdims=True)
    log_sum = np.log(np.exp(x - largest).sum(1, keepdims=True))
    terms = q * (np.abs(x) + np.abs(largest) + log_sum)
    loss = reference.cross_entropy_forward(x, target.tolist(), smoothing)
    assert_agree(loss, truth, terms.sum() / shape[0])
    (autograd,) = torch.autograd.grad(truth, leaf)
    magnitude = (reference.softmax_forward(x) + q) / shape[0]
    assert_agree(
        reference.cross_entropy_backward(x, target.tolist(), smoothing), autograd, magnitude
    )


@few
@given(logits, seeds)
def test_mse(shape, seed):
    x, target = normal(seed, shape, shape)
    (leaf,) = tensors(x)
    truth = F.mse_loss(leaf, torch.tensor(target))
    assert_agree(reference.mse_forward(x, target), truth, reference.mse_forward(x, target))
    (autograd,) = torch.autograd.grad(truth, leaf)
    magnitude = reference.mse_backward(np.abs(x), -np.abs(target))
    assert_agree(reference.mse_backward(x, target), autograd, magnitude)


def three_steps(optimizer, w, gradients):
    for dw in gradients:
        w.grad = torch.tensor(dw)
        optimizer.step()
        yield w.detach().numpy().copy()


@few
@given(st.sampled_from([0.0, 0.9]), st.sampled_from([0.0, 0.1]), st.booleans(), seeds)
def test_sgd(momentum, decay, nesterov, seed):
    nesterov = nesterov and momentum > 0
    w, *gradients = normal(seed, *[(2, 3)] * 4)
    (leaf,) = tensors(w)
    optimizer = torch.optim.SGD(
        [leaf], lr=0.1, momentum=momentum, weight_decay=decay, nesterov=nesterov
    )
    velocity = None
    terms = np.abs(w)
    for dw, truth in zip(gradients, three_steps(optimizer, leaf, gradients), strict=True):
        terms = terms + np.abs(dw)  # every step adds at most 0.1 · (1 + 0.9 + 0.81) · 1.9 of it
        w, velocity = reference.sgd_step(w, dw, 0.1, momentum, decay, nesterov, velocity)
        assert_agree(w, truth, terms)


@few
@given(st.sampled_from([0.0, 0.1]), st.sampled_from([1e-8, 1e-2]), seeds)
def test_adam(decay, eps, seed):
    w, *gradients = normal(seed, *[(2, 3)] * 4)
    (leaf,) = tensors(w)
    optimizer = torch.optim.Adam([leaf], lr=0.1, eps=eps, weight_decay=decay)
    state = None
    for dw, truth in zip(gradients, three_steps(optimizer, leaf, gradients), strict=True):
        magnitude = np.abs(w) + 0.1  # a step is at most about the learning rate
        w, state = reference.adam_step(w, dw, 0.1, (0.9, 0.999), eps, decay, state)
        assert_agree(w, truth, magnitude)
    assert state is not None
    assert state.num_steps == 3
