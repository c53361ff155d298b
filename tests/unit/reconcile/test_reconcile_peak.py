"""The peak of a step, in the dry run and in the allocator."""

import pytest
import torch
from torch import nn

from layerscope.dry_run import dry_run
from layerscope.measure import Step, memory_timeline
from layerscope.networks.cifar_cnn import CifarCNN
from layerscope.networks.simple_cnn import SimpleCNN
from layerscope.networks.tiny_cnn import TinyCNN
from layerscope.reconcile import OPTIMIZERS, ProfileSettings, profile_network
from layerscope.theory.capacity import base_bytes, step_bytes, training_memory

MEMORY = frozenset({"memory"})
IMAGE = (32, 3, 32, 32)


def ran(network, shape, optimizer="momentum"):
    return dry_run(network, (torch.empty(shape),), optimizer=OPTIMIZERS[optimizer])


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("batch_size", [32, 64])
def test_cifar_cnn(batch_size, channels_last):
    settings = ProfileSettings("cifar_cnn", (batch_size, *IMAGE[1:]), channels_last=channels_last)
    peak = profile_network(CifarCNN(), settings, MEMORY).peak
    assert (peak.predicted_layer, peak.predicted_phase) == ("block3.relu", "backward")
    assert peak.predicted_live_bytes == peak.measured_live_bytes <= peak.measured_bytes
    assert sum(peak.parts.values()) == peak.predicted_live_bytes
    assert (peak.state_bytes, peak.optimizer_bytes) == (379_944, 379_944)
    if batch_size == 32:
        assert peak.predicted_live_bytes == 21_502_768


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(
    ("network", "shape"), [(TinyCNN, (32, 1, 8, 8)), (SimpleCNN, (32, 1, 4, 4)), (CifarCNN, IMAGE)]
)
def test_threads_multiply_the_scratch_alone(network, shape, threads):
    torch.set_num_threads(threads)
    peak = profile_network(network(), ProfileSettings("x", shape), MEMORY).peak
    assert peak.predicted_live_bytes == peak.measured_live_bytes


def test_every_moment_of_the_timeline_is_there():
    run = dry_run(CifarCNN(), (torch.empty(IMAGE),))
    layers = [call.key for call in run.layers if call.key != "flatten"]
    forward = [moment.layer for moment in run.timeline if moment.phase == "forward"]
    assert [layer for layer in forward if layer != "flatten"] == layers
    backward = [moment.layer for moment in run.timeline if moment.phase == "backward"]
    assert [layer for layer in backward if layer not in ("backward", "flatten")] == layers[::-1]
    assert max(moment.live_bytes for moment in run.timeline) == run.live_peak_bytes
    # The parameters' gradients and the loss are left at the end.
    assert run.timeline[-1].bytes_after in (379_944 + 4, 379_944 + 8)


def test_the_memory_between_layers_is_the_allocators():
    """The live bytes after each layer's forward are predicted to the byte, not just the peak."""
    network = CifarCNN()
    run = dry_run(network, (torch.empty(IMAGE),))
    record = memory_timeline(Step(network, (torch.randn(IMAGE),)))
    blocks = [block for block in record.blocks if not block.is_scratch]
    last: dict[str, int] = {}
    for block in blocks:
        if block.phase == "forward" and block.layer is not None:
            last[block.layer] = max(last.get(block.layer, 0), block.allocated_at)
    moments = [m for m in run.timeline if m.phase == "forward" and m.layer in last]
    assert len(moments) >= 11
    for moment in moments:
        at = last[moment.layer]
        alive = sum(
            block.num_bytes
            for block in blocks
            if block.allocated_at <= at and (block.freed_at is None or block.freed_at > at)
        )
        assert alive == moment.live_bytes, moment.layer


class TestLargestBatch:
    def memory(self, network, optimizer="momentum"):
        small, large = (ran(network, (size, *IMAGE[1:]), optimizer) for size in (2, 4))
        return training_memory(small, large)

    @pytest.mark.parametrize("limit", [10**7, 10**8])
    @pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
    def test_is_the_last_that_fits(self, limit, optimizer):
        batch = self.memory(CifarCNN(), optimizer).largest_batch(limit)
        needed = []
        for size in (batch, batch + 1):
            run = ran(CifarCNN(), (size, *IMAGE[1:]), optimizer)
            needed.append(base_bytes(run) + max(step_bytes(run)))
        assert needed[0] <= limit < needed[1]

    def test_calls_that_depend_on_the_batch_size_have_none(self):
        class Looping(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv = nn.Conv2d(3, 4, 3)

            def forward(self, x):
                return torch.cat([self.conv(part) for part in x.split(2)])

        peak = profile_network(Looping(), ProfileSettings("looping", (4, 3, 8, 8)), MEMORY).peak
        assert peak.largest_batch is None

    def test_a_network_made_for_one_batch_size_has_none(self):
        class Fixed(nn.Module):
            def forward(self, x):
                return x.view(4, 3).relu()

        settings = ProfileSettings("fixed", (4, 3), input_requires_grad=True)
        assert profile_network(Fixed(), settings, MEMORY).peak.largest_batch is None

    def test_nothing_fits(self):
        assert self.memory(CifarCNN()).largest_batch(1000) == 0

    def test_scratch_is_measured_and_shown_apart(self):
        settings = ProfileSettings("cifar_cnn", (8, 3, 32, 32))
        measured = profile_network(CifarCNN(), settings, MEMORY).peak
        predicted = profile_network(CifarCNN(), settings, frozenset()).peak
        batches = [[row.batch_size for row in peak.largest_batch] for peak in (measured, predicted)]
        assert batches[0] == batches[1] == sorted(batches[0])
        scratch = measured.measured_bytes - measured.measured_live_bytes
        assert {row.scratch_bytes for row in measured.largest_batch} == {scratch}
        assert {row.scratch_bytes for row in predicted.largest_batch} == {None}
