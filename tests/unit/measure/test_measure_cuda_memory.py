"""The memory of a CUDA device in a step. Only its arithmetic is tested without a device."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from layerscope.base.errors import UserError
from layerscope.measure import CudaMemory, Step, cuda_memory, memory_record, profile_step
from layerscope.measure.cuda_memory import requested_by_address, requested_sizes
from layerscope.networks.cifar_cnn import CifarCNN
from layerscope.reconcile import ProfileSettings
from layerscope.reconcile.measurements import measure
from layerscope.reconcile.peak import device_stages, live_peak_bytes

MIB = 2**20


def test_sizes_are_those_that_were_asked_for():
    entries = [
        {"action": "alloc", "addr": 1, "size": 999},  # It is from before: the last ones count.
        {"action": "free_requested", "addr": 1, "size": 999},
        {"action": "segment_alloc", "addr": 1, "size": 2 * MIB},
        {"action": "alloc", "addr": 1, "size": 100},
        {"action": "alloc", "addr": 2, "size": 600},
        {"action": "free_requested", "addr": 1, "size": 100},
        {"action": "free_completed", "addr": 1, "size": 100},
        {"action": "alloc", "addr": 1, "size": 512},
    ]
    changes = [(7, -1024), (1, 512), (2, 1024), (1, -512), (1, 512), (2, -1024)]
    assert requested_sizes(changes, requested_by_address(entries)) == [
        *(-1024, 100, 600, -100, 512, -600)
    ]


@pytest.mark.parametrize(
    "entries",
    [
        [],
        [{"action": "alloc", "addr": 1, "size": 100}],  # one of two
        [{"action": "alloc", "addr": 1, "size": s} for s in (100, 5000)],  # more than the block
    ],
)
def test_a_history_that_does_not_fit_is_not_used(entries):
    changes = [(1, 512), (1, -512), (1, 512)]
    assert requested_sizes(changes, requested_by_address(entries)) is None


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4 * MIB)), max_size=30))
def test_any_order_of_allocations_and_releases(requests):
    """Each request of an address in use frees it first, as an allocator must."""
    held: dict[int, int] = {}
    changes, entries, right = [], [], []
    for address, size in requests:
        if address in held:
            old = held.pop(address)
            changes.append((address, -(-(-old // 512) * 512)))
            right.append(-old)
        held[address] = size
        changes.append((address, -(-size // 512) * 512))
        entries.append({"action": "alloc", "addr": address, "size": size})
        right.append(size)
    assert requested_sizes(changes, requested_by_address(entries)) == right


class Allocator:
    """A stand-in for torch.cuda that reports given figures of a device."""

    def __init__(self, before, after, free, total):
        self.statistics = iter([before, after])
        self.information = (free, total)
        self.calls = []

    def patch(self, monkeypatch):
        for name in ("synchronize", "empty_cache", "reset_peak_memory_stats"):
            monkeypatch.setattr(torch.cuda, name, lambda *a, name=name: self.calls.append(name))
        monkeypatch.setattr(torch.cuda, "memory_stats", lambda device: next(self.statistics))
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: self.information)


def test_the_stages_lead_to_what_is_used_of_the_device(monkeypatch):
    network = nn.Linear(10, 10)
    step = Step(network, (torch.randn(4, 10),))
    allocator = Allocator(
        {"requested_bytes.all.current": 33 * MIB},
        {
            "requested_bytes.all.peak": 40 * MIB,
            "allocated_bytes.all.peak": 41 * MIB,
            "reserved_bytes.all.peak": 64 * MIB,
        },
        free=1000 * MIB,
        total=1500 * MIB,
    )
    allocator.patch(monkeypatch)
    memory = cuda_memory(step)
    assert memory == CudaMemory(600, 33 * MIB, 40 * MIB, 41 * MIB, 64 * MIB, 500 * MIB)
    assert allocator.calls == ["empty_cache", "reset_peak_memory_stats"]  # A CPU needs no waiting.
    record = memory_record(profile_step(step))
    stages = device_stages(record, memory)
    assert {stage.name: stage.num_bytes for stage in stages} == {
        "live": live_peak_bytes(record),
        "scratch": 7 * MIB - live_peak_bytes(record),
        "resident": 600,
        "workspaces": 33 * MIB - 600,
        "rounding": MIB,
        "cached": 23 * MIB,
        "context": 436 * MIB,
    }
    assert sum(stage.num_bytes for stage in stages) == 500 * MIB
    assert device_stages(record, None) is None


def test_another_allocator_leaves_the_memory_unknown(monkeypatch):
    """As cudaMallocAsync, whose statistics are 0 and whose history cannot be recorded."""
    monkeypatch.setattr(torch.cuda, "get_allocator_backend", lambda: "cudaMallocAsync")
    step = Step(nn.Linear(10, 10), (torch.randn(4, 10),))
    assert memory_record(profile_step(step)).peak_bytes > 0  # The CPU has its own.
    monkeypatch.setattr(Step, "device", torch.device("cuda"))
    for instrument in (cuda_memory, profile_step):
        with pytest.raises(UserError, match=r"cudaMallocAsync .* PYTORCH_CUDA_ALLOC_CONF"):
            instrument(step)
    settings = ProfileSettings("net", (4, 10))
    measured = measure(step, settings, frozenset({"memory"}))
    assert (measured.memory, measured.cuda_memory) == (None, None)
    assert "cudaMallocAsync" in measured.notes[0]


@pytest.mark.gpu
def test_on_a_gpu():
    step = Step(CifarCNN().cuda(), (torch.randn(128, 3, 32, 32, device="cuda"),))
    memory = cuda_memory(step)
    assert memory.resident_bytes <= memory.requested_before_bytes < memory.requested_bytes
    assert memory.requested_bytes <= memory.allocated_bytes <= memory.reserved_bytes
    assert memory.reserved_bytes < memory.used_bytes
    record = memory_record(profile_step(step))
    assert not record.has_block_sizes
    assert sum(stage.num_bytes for stage in device_stages(record, memory)) == memory.used_bytes
