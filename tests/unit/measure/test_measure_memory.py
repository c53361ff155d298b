import pytest
import torch
from torch import nn
from torch.autograd.profiler import profile

from layerscope.measure import Step, memory_record, memory_timeline, profile_step, step_activations
from layerscope.networks.cifar_cnn import CifarCNN

MIB = 2**20


def cifar(memory_format=torch.contiguous_format, batch_size=32):
    network = CifarCNN().to(memory_format=memory_format)
    image = torch.randn(batch_size, 3, 32, 32).to(memory_format=memory_format)
    return Step(network, (image,))


def parameter_bytes(network):
    return sum(parameter.nbytes for parameter in network.parameters())


class TestCifarCNN:
    @pytest.mark.parametrize(
        ("memory_format", "peak_bytes", "layer", "scratch_bytes"),
        [
            # The backward of batch norm makes a second buffer of the gradient's size.
            (torch.contiguous_format, 21_503_792, "block3.bn", MIB),
            # The gradient from global average pooling is not channels_last: the backward of
            # max-pool copies its indices and makes its result twice.
            (torch.channels_last, 22_813_488, "block3.pool", MIB + MIB // 2),
        ],
    )
    def test_peak(self, memory_format, peak_bytes, layer, scratch_bytes):
        record = memory_timeline(cifar(memory_format))
        assert record.peak_bytes == peak_bytes
        assert (record.peak_layer, record.peak_phase) == (layer, "backward")
        assert record.scratch_bytes_at_peak == record.scratch[layer] == scratch_bytes
        assert sum(block.num_bytes for block in record.blocks_at_peak()) == peak_bytes

    def test_old_gradients_change_nothing(self):
        step = cifar()
        step.network(*step.args).sum().backward()
        assert memory_timeline(step).peak_bytes == 21_503_792

    def test_the_forward_ends_with_what_autograd_keeps_and_the_step_with_the_gradients(self):
        step = cifar()
        record = memory_timeline(step)
        loss = next(n for n, point in enumerate(record.points) if point.phase == "loss")
        logits = 32 * 10 * 4
        kept = step_activations(step).saved_bytes
        assert record.points[loss - 1].allocated_bytes == kept + logits == 19_941_120 + logits
        assert record.points[-1].allocated_bytes == parameter_bytes(step.network) + 4  # the loss
        left = {block.layer for block in record.blocks if block.freed_at is None}
        assert left == {*(f"block{n}.{layer}" for n in (1, 2, 3) for layer in ("conv", "bn"))} | {
            "fc",
            None,
        }

    def test_the_points_are_those_of_the_blocks(self):
        record = memory_timeline(cifar(batch_size=2))
        changes = [0] * len(record.points)
        for block in record.blocks:
            changes[block.allocated_at] += block.num_bytes
            if block.freed_at is not None:
                changes[block.freed_at] -= block.num_bytes
        totals = [sum(changes[: number + 1]) for number in range(len(changes))]
        assert totals == [point.allocated_bytes for point in record.points]
        seconds = [point.seconds for point in record.points]
        assert seconds == sorted(seconds)
        assert seconds[0] == 0 < seconds[-1]

    def test_the_life_of_a_convolutions_output(self):
        (block,) = (
            block
            for block in memory_timeline(cifar()).blocks
            if block.layer == "block1.conv" and block.phase == "forward" and not block.is_scratch
        )
        assert block.num_bytes == 32 * 32 * 32 * 32 * 4
        assert (block.operation, block.freed_operation) == ("aten::conv2d", None)
        assert (block.freed_layer, block.freed_phase) == ("block1.bn", "backward")

    def test_a_result_that_nobody_keeps_goes_when_the_next_layer_has_run(self):
        (block,) = (
            block
            for block in memory_timeline(cifar()).blocks
            if block.layer == "block1.bn" and block.num_bytes == 4 * MIB and not block.is_scratch
            if block.phase == "forward"
        )
        assert (block.freed_layer, block.freed_phase) == ("block1.relu", "forward")


def test_it_is_what_the_profiler_saw():
    """The profiler's own totals, allocations minus releases, agree for each operation."""
    step = cifar(batch_size=4)
    with step.preserve_state(), profile(use_kineto=True, profile_memory=True) as profiler:
        loss = step.run()
    own = sum(event.self_cpu_memory_usage for event in profiler.function_events)
    assert memory_timeline(step).points[-1].allocated_bytes == own
    del loss


def test_an_image_that_requires_a_gradient():
    step = cifar()
    (image,) = step.args
    image.requires_grad_()
    record = memory_timeline(step)
    gradients = parameter_bytes(step.network) + image.nbytes
    assert record.points[-1].allocated_bytes == gradients + 4


def test_without_a_backward():
    with torch.no_grad():
        record = memory_timeline(cifar())
    assert {point.phase for point in record.points} == {"forward", "loss"}
    assert record.points[-1].allocated_bytes == 0
    assert record.peak_bytes < 21_503_792


def test_a_network_that_allocates_nothing():
    record = memory_timeline(Step(nn.Flatten(), (torch.randn(2, 3, 4),)))
    assert record.points == record.blocks == record.blocks_at_peak() == ()
    assert (record.peak_bytes, record.peak_layer, dict(record.scratch)) == (0, None, {"Flatten": 0})


def test_one_profiled_step_gives_flops_and_memory():
    step = cifar()
    record = memory_record(profile_step(step))
    assert record.peak_bytes == 21_503_792
    assert record.blocks == memory_timeline(step).blocks


def test_scratch_inside_an_operation():
    image = torch.randn(2, 8, 32, 32).to(memory_format=torch.channels_last)
    record = memory_timeline(Step(nn.Softmax(1), (image,)))
    assert record.scratch["Softmax"] == sum(
        block.num_bytes for block in record.blocks if block.is_scratch
    )
    (scratch, output) = (block for block in record.blocks if block.phase == "forward")
    assert {scratch.num_bytes, output.num_bytes} == {image.nbytes}
    assert {scratch.is_scratch, output.is_scratch} == {True, False}


@pytest.mark.gpu
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_on_a_gpu_it_is_the_allocators_own_peak_of_what_was_asked_for(memory_format):
    step = cifar(memory_format)
    step = Step(step.network.cuda(), (step.args[0].cuda(),))
    record = memory_timeline(step)
    with step.preserve_state():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_stats()["requested_bytes.all.current"]
        loss = step.run()
        torch.cuda.synchronize()
        peak_bytes = torch.cuda.memory_stats()["requested_bytes.all.peak"] - before
    assert not record.has_block_sizes
    assert record.peak_bytes == peak_bytes
    assert record.peak_layer in record.scratch
    del loss


def test_garbage_of_earlier_work_does_not_count():
    class DropsGarbage(nn.Module):
        def forward(self, image):
            garbage.clear()
            return image.relu()

    image = torch.ones(4)
    with profile(use_kineto=True, profile_memory=True):  # The allocator notes its size.
        garbage = [torch.empty(1000)]
    record = memory_timeline(Step(DropsGarbage(), (image,)))
    assert not garbage
    assert [point.allocated_bytes for point in record.points] == [16, 0]
    assert record.peak_bytes == 16
