"""The peak of a step: on paper and by the allocator."""

import pytest
import torch
import torchvision

from layerscope.layers import describe
from layerscope.measure import Step, memory_timeline
from layerscope.networks.cifar_cnn import CifarCNN
from layerscope.networks.simple_cnn import SimpleCNN
from layerscope.networks.tiny_cnn import TinyCNN
from layerscope.reconcile import Settings, profile_network
from layerscope.theory.capacity import OPTIMIZERS, optimizer_step_bytes, training_memory
from layerscope.theory.saved import saved_memory
from layerscope.theory.step import step_memory

MEMORY = frozenset({"memory"})


@pytest.fixture(autouse=True)
def _one_thread():
    """Unless the test says otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def on_paper(network, shape):
    specs = describe(network, shape)
    return specs, step_memory(specs, saved_memory(specs))


@pytest.mark.parametrize(
    ("channels_last", "peak_bytes", "layer"),
    [(False, 21_503_792, "block3.bn"), (True, 22_813_488, "block3.pool")],
)
@pytest.mark.parametrize("batch_size", [32, 64])
def test_cifar_cnn(batch_size, channels_last, peak_bytes, layer):
    settings = Settings("cifar_cnn", (batch_size, 3, 32, 32), channels_last=channels_last)
    peak = profile_network(CifarCNN(), settings, MEMORY).peak
    assert (peak.predicted_layer, peak.predicted_phase) == (layer, "backward")
    assert peak.predicted_bytes == pytest.approx(peak.measured_bytes, rel=0.01)
    assert peak.predicted_live_bytes == peak.measured_live_bytes
    assert sum(peak.parts.values()) == peak.predicted_bytes
    if batch_size == 32:
        assert peak.predicted_bytes == pytest.approx(peak_bytes, rel=0.01)


# The library's working memory is written down for this kind of CPU alone.
with_avx512 = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() != "AVX512",
    reason="on a CPU without AVX-512 oneDNN has other buffers",
)


@with_avx512
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    ("network", "shape", "threads"),
    [
        *((TinyCNN, (32, 1, 8, 8), threads) for threads in (1, 2, 4)),
        *((SimpleCNN, (32, 1, 4, 4), threads) for threads in (1, 2, 4)),
        *((CifarCNN, (32, 3, 32, 32), threads) for threads in (1, 2, 4)),
        (TinyCNN, (64, 1, 8, 8), 2),
        (SimpleCNN, (64, 1, 4, 4), 4),
    ],
)
def test_any_number_of_threads(network, shape, threads, channels_last):
    """The small networks' peaks are mostly the library's working memory, which threads multiply."""
    torch.set_num_threads(threads)
    settings = Settings("x", shape, channels_last=channels_last)
    peak = profile_network(network(), settings, MEMORY).peak
    assert peak.predicted_live_bytes == peak.measured_live_bytes
    assert peak.predicted_bytes == pytest.approx(peak.measured_bytes, rel=0.01)


@with_avx512
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("threads", [1, 3, 8])
@pytest.mark.parametrize(
    ("shape", "out", "kernel"),
    [
        ((16, 1, 14, 14), 33, 3),  # one channel: in channels_last, taps become channels
        ((4, 3, 16, 16), 32, 5),  # fewer images than threads: channels are divided too
        ((16, 20, 9, 9), 40, 3),
        ((32, 2, 8, 8), 10, 1),
    ],
)
def test_one_convolution(shape, out, kernel, threads, channels_last):
    torch.set_num_threads(threads)
    conv = torch.nn.Conv2d(shape[1], out, kernel, padding=kernel // 2)
    network = torch.nn.Sequential(conv, torch.nn.ReLU())
    settings = Settings("x", shape, channels_last=channels_last, input_requires_grad=True)
    peak = profile_network(network, settings, MEMORY).peak
    assert peak.predicted_bytes == pytest.approx(peak.measured_bytes, rel=0.001)


@with_avx512
def test_an_image_of_few_channels():
    """Its weight's gradient goes through blocks of 8 channels."""
    network = torch.nn.Sequential(torch.nn.Conv2d(12, 48, 3), torch.nn.ReLU())
    peak = profile_network(network, Settings("x", (16, 12, 8, 8)), MEMORY).peak
    assert peak.predicted_bytes == pytest.approx(peak.measured_bytes, rel=0.001)


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "mobilenet_v3_small", "googlenet"])
def test_the_field(name):
    options = {"init_weights": False} if name == "googlenet" else {}
    network = torchvision.models.get_model(name, weights=None, **options)
    peak = profile_network(network, Settings(name, (8, 3, 64, 64)), MEMORY).peak
    assert peak.predicted_live_bytes == peak.measured_live_bytes
    assert peak.predicted_bytes == pytest.approx(peak.measured_bytes, rel=0.03)


def test_every_moment_of_the_timeline_is_there():
    specs, paper = on_paper(CifarCNN(), (32, 3, 32, 32))
    layers = [spec.key for spec in specs.layers]
    assert [moment.layer for moment in paper.moments if moment.phase == "forward"] == layers
    backward = [moment.layer for moment in paper.moments if moment.phase == "backward"]
    assert backward == layers[::-1]
    # at the end the gradients of the parameters are left, the loss and its own gradient
    assert paper.moments[-1].bytes_after == 379_944 + 8


def test_the_memory_between_layers_is_the_allocators():
    """Not the peak alone: after every layer's forward, what is alive is exactly predicted."""
    network, image = CifarCNN(), torch.randn(32, 3, 32, 32)
    _, paper = on_paper(network, tuple(image.shape))
    record = memory_timeline(Step(network, image))
    blocks = [block for block in record.blocks if not block.is_scratch]
    last: dict[str, int] = {}
    for block in blocks:
        if block.phase == "forward" and block.layer is not None:
            last[block.layer] = max(last.get(block.layer, 0), block.allocated_at)
    for moment in paper.moments:
        if moment.phase == "forward" and moment.layer in last:
            at = last[moment.layer]
            alive = sum(
                block.num_bytes
                for block in blocks
                if block.allocated_at <= at and (block.freed_at is None or block.freed_at > at)
            )
            assert alive == moment.live_bytes, moment.layer


class TestLargestBatch:
    def memory(self, network, optimizer="momentum"):
        small, large = (on_paper(network, (size, 3, 32, 32)) for size in (2, 4))
        return training_memory(small, large, OPTIMIZERS[optimizer])

    def test_is_the_last_that_fits(self):
        memory = self.memory(CifarCNN())
        for limit in (10**7, 10**8, 10**9):
            batch = memory.largest_batch(limit)
            assert memory.step_bytes(batch) <= limit < memory.step_bytes(batch + 1)

    @pytest.mark.parametrize("batch_size", [8, 32, 100])
    def test_agrees_with_that_batch_on_paper(self, batch_size):
        specs, paper = on_paper(CifarCNN(), (batch_size, 3, 32, 32))
        base = 379_944 * 2 + 1_816 + batch_size * 3 * 32 * 32 * 4
        expected = base + paper.peak.peak_bytes
        assert self.memory(CifarCNN()).step_bytes(batch_size) == pytest.approx(expected, rel=1e-6)
        assert specs.inputs[0].shape[0] == batch_size

    def test_calls_that_depend_on_the_batch_size_have_none(self):
        class Looping(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.conv = torch.nn.Conv2d(3, 4, 3)

            def forward(self, x):
                return torch.cat([self.conv(part) for part in x.split(2)])

        peak = profile_network(Looping(), Settings("looping", (4, 3, 8, 8)), MEMORY).peak
        assert peak.largest_batch is None

    def test_nothing_fits(self):
        assert self.memory(CifarCNN()).largest_batch(1000) == 0

    def test_adams_state(self):
        sgd, adam = (self.memory(CifarCNN(), name) for name in ("sgd", "adam"))
        assert adam.step_bytes(32) - sgd.step_bytes(32) == 2 * 379_944


@pytest.mark.parametrize(
    ("name", "optimizer"),
    [
        ("sgd", lambda p: torch.optim.SGD(p, 0.1)),
        ("momentum", lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)),
        ("adam", lambda p: torch.optim.Adam(p, 0.1)),
    ],
)
def test_the_optimizers_step_needs_what_is_said(name, optimizer):
    network = CifarCNN()
    specs, _ = on_paper(network, (2, 3, 32, 32))
    instance = optimizer(list(network.parameters()))
    for _ in range(2):
        network(torch.randn(2, 3, 32, 32)).sum().backward()
        instance.step()
    states = [
        value
        for state in instance.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor) and value.dim()
    ]
    assert sum(map(torch.Tensor.numel, states)) == OPTIMIZERS[name].num_states * 94_986
    with torch.autograd.profiler.profile(profile_memory=True, use_kineto=True) as profiler:
        instance.step()
    alive = most = 0
    for event in profiler.kineto_results.events():
        if event.name() == "[memory]":
            alive += event.nbytes()
            most = max(most, alive)
    gradients = 379_944
    assert gradients + most == pytest.approx(
        optimizer_step_bytes(specs, OPTIMIZERS[name]), abs=4_096
    )
