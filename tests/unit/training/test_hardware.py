import pytest
import torch

from layerscope.config.schema import TrainerConfig
from layerscope.training.hardware import num_threads


@pytest.fixture(autouse=True)
def _eight_cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(8))


def trainer(devices, threads):
    strategy = "auto" if devices == 1 else "ddp"
    return TrainerConfig.model_construct(
        accelerator="cpu", devices=devices, strategy=strategy, threads=threads
    )


@pytest.mark.parametrize(("devices", "threads", "each"), [(2, None, 4), (9, None, 1), (2, 3, 3)])
def test_processes_share_the_cores(devices, threads, each, monkeypatch):
    """Before they train as while they do, or a run could not be gone on with."""
    assert num_threads(trainer(devices, threads)) == each
    monkeypatch.setattr("torch.get_num_threads", lambda: each)  # as Lightning makes it
    assert num_threads(trainer(devices, threads)) == each


def test_one_process_has_the_threads_that_torch_gives_it():
    assert num_threads(trainer(1, None)) == torch.get_num_threads()


def test_a_number_in_the_environment_is_that_of_each(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert num_threads(trainer(2, None)) == torch.get_num_threads()
