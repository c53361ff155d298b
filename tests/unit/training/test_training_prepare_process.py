import ctypes
import resource

import pytest
import torch

from layerscope.config.compose import CONFIG_DIR, compose, without_places
from layerscope.config.problems import parse
from layerscope.config.schema import TrainConfig
from layerscope.training.callbacks.prepare_process import prepare_process


def faults_of_a_step():
    """Allocate and write 10 blocks of 16 MiB, and free them all."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.ones(2**22) for _ in range(10)]
    del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="no glibc")
def test_a_step_gets_the_memory_that_the_one_before_freed(monkeypatch):
    """160 MiB are 40,960 pages of 4 KiB."""
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    config = parse(TrainConfig, without_places(compose(CONFIG_DIR, "train", ["trainer=cpu"])))
    prepare_process(config.trainer)
    _, _, third = (faults_of_a_step() for _ in range(3))
    assert third < 1_000
