import os
from pathlib import Path

# Before torch is imported: the tests run in several processes, whose threads would fight for cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

from layerscope.base.errors import UserError
from layerscope.data.store import default_directory, load_cifar10

ROOT = Path(__file__).parents[1]


def pytest_collection_modifyitems(config, items):
    """What this machine lacks, or takes minutes, is skipped, and pytest's summary says so."""
    missing = {}
    if not _has_real_data():
        missing["real_data"] = f"no verified CIFAR-10 in {default_directory()}"
    if not torch.cuda.is_available():
        missing["gpu"] = "no CUDA device"
    if "slow" not in config.option.markexpr:
        missing["slow"] = "takes minutes: pytest -m slow"
    for item in items:
        for marker, reason in missing.items():
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


def _has_real_data():
    try:
        load_cifar10()
    except UserError:
        return False
    return True


@pytest.fixture
def configs():
    """The folder of the Hydra configurations."""
    return ROOT / "configs"


@pytest.fixture
def scripts():
    """The folder of the scripts."""
    return ROOT / "scripts"


@pytest.fixture
def golden():
    """Compare a text with a file of tests/golden; LAYERSCOPE_UPDATE_GOLDEN=1 writes the file."""

    def compare(name, text):
        path = ROOT / "tests/golden" / name
        if os.environ.get("LAYERSCOPE_UPDATE_GOLDEN") == "1":
            path.write_text(text)
        assert text == path.read_text()

    return compare


@pytest.fixture(autouse=True)
def _no_surprises(monkeypatch):
    """Nothing is read from the user's settings, and one thread computes.

    Training sets the number of threads. The memory that a kernel takes depends on it, and for many
    small operations waiting threads cost more than they save.
    """
    torch.set_num_threads(1)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
