from types import SimpleNamespace

import pytest
import torch

from layerscope.config.schema import TrainerConfig
from layerscope.training.hardware import describe_hardware, num_threads, run_environment


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
    """The number is the same before training and during it, or a run could not resume."""
    assert num_threads(trainer(devices, threads)) == each
    monkeypatch.setattr("torch.get_num_threads", lambda: each)  # Lightning sets this number.
    assert num_threads(trainer(devices, threads)) == each


def test_one_process_has_the_threads_that_torch_gives_it():
    assert num_threads(trainer(1, None)) == torch.get_num_threads()


def test_a_number_in_the_environment_is_that_of_each(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert num_threads(trainer(2, None)) == torch.get_num_threads()


@pytest.fixture
def _a_gpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "H100")


def around(accelerator):
    trainer = TrainerConfig.model_construct(
        accelerator=accelerator, devices=1, strategy="auto", threads=None
    )
    return run_environment(SimpleNamespace(trainer=trainer))


@pytest.mark.usefixtures("_a_gpu")
def test_on_a_gpu_its_name_decides_the_bits_and_the_hosts_threads_do_not():
    assert around("gpu") == {"processes": 1, "device": "cuda", "gpu": "H100"}
    threads = torch.get_num_threads()
    assert around("cpu") == {"processes": 1, "device": "cpu", "threads": threads}


@pytest.mark.usefixtures("_a_gpu")
def test_a_run_says_where_float32_is_computed_as_tf32():
    assert describe_hardware()["tf32"] == {"matmul": False, "convolution": True}


def test_without_a_gpu_there_is_no_tf32():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert describe_hardware()["tf32"] is None
