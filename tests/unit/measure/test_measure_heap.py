import platform
from pathlib import Path

import pytest
import torch

from layerscope.measure import release_free_memory

MIB = 2**20


def resident_bytes():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps freed memory so")
def test_what_was_freed_goes_back_to_the_system():
    many = [torch.ones(2**14) for _ in range(2000)]  # 64 KiB each: in the heap, not mapped
    last = torch.ones(2**14)  # holds the end of the heap
    del many
    before = resident_bytes()
    release_free_memory()
    assert resident_bytes() < before - 50 * MIB
    assert last.sum() == 2**14


def test_another_c_library_is_let_be(monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    release_free_memory()
