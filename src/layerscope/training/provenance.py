"""The content of run.json: what it takes to repeat a run, and what it ran on."""

import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from layerscope.config.schema import Cifar10Config, DataConfig, TrainConfig
from layerscope.data.store import Provenance, prepare_cifar10
from layerscope.data.transfer import Report
from layerscope.training.hardware import describe_hardware

PACKAGES = (
    "layerscope",
    "torch",
    "torchvision",
    "lightning",
    "hydra-core",
    "torchmetrics",
    "numpy",
)


def describe_run(
    config: TrainConfig, overrides: tuple[str, ...], data: Provenance
) -> dict[str, Any]:
    """Return the environment, the seed and the data of a run, as plain data."""
    return {**describe_environment(overrides), "seed": config.seed, "data": data}


def describe_environment(overrides: tuple[str, ...]) -> dict[str, Any]:
    """Return the command, the versions and the hardware, as plain data."""
    return {
        "command": [_program(), *overrides],
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in PACKAGES},
        },
        "commit": _commit(),
        "hardware": describe_hardware(),
        "threads": torch.get_num_threads(),
    }


def prepare_data(config: DataConfig, report: Report) -> Provenance:
    """Fetch the images if they are missing, and return where they come from."""
    if isinstance(config, Cifar10Config):
        return prepare_cifar10(Path(config.dir) if config.dir else None, report)
    return {"name": "synthetic", "source": "made by layerscope.data.synthetic", "sha256": {}}


def _program() -> str:
    """Return what was called, `train.py` or `layerscope train`."""
    name = Path(sys.argv[0]).name
    return f"layerscope {sys.argv[1]}" if name in ("layerscope", "__main__.py") else name


def _commit() -> str | None:
    """Return the commit of the checkout that this package is in; None outside a checkout."""
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return None
    try:
        answer = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
