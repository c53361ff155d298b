"""The device that a run gets, and what that device can do."""

import os
import platform
from pathlib import Path
from typing import Any

import torch

from layerscope.base.errors import UserError
from layerscope.config.schema import TrainConfig, TrainerConfig
from layerscope.measure.machine import tf32_switches

BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # x86 and Arm, as Linux spells them


def uses_gpu(trainer: TrainerConfig) -> bool:
    """Tell whether the run uses a GPU; raise a UserError if one is asked for and there is none."""
    available = torch.cuda.is_available()
    if trainer.accelerator == "gpu" and not available:
        raise UserError("trainer=gpu: torch sees no CUDA device here; set trainer=cpu")
    return trainer.accelerator != "cpu" and available


def num_processes(trainer: TrainerConfig) -> int:
    """Return the number of processes that train together."""
    present = torch.cuda.device_count() if uses_gpu(trainer) else 1
    wanted = present if trainer.devices == "auto" else trainer.devices
    if uses_gpu(trainer) and wanted > present:
        raise UserError(f"trainer.devices={wanted}: there are {present}; ask for as many or fewer")
    if wanted > 1 and trainer.strategy == "auto":
        raise UserError(
            f"trainer.devices={wanted} needs a strategy: set trainer=ddp, or trainer=ddp_spawn"
        )
    return wanted


def in_child_process() -> bool:
    """Tell whether Lightning started this process, not the user (ddp)."""
    return int(os.environ.get("LOCAL_RANK", "0")) > 0


def resolved_precision(trainer: TrainerConfig) -> TrainerConfig:
    """Replace the precision "auto": bf16-mixed on hardware with bf16 instructions, else 32-true."""
    if trainer.precision != "auto":
        return trainer
    if uses_gpu(trainer):
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has_bf16 = bool(_cpu_flags() & BF16_FLAGS)
    return trainer.model_copy(update={"precision": "bf16-mixed" if has_bf16 else "32-true"})


def num_threads(trainer: TrainerConfig) -> int:
    """Return the number of threads of each process.

    Several processes share the cores evenly, as in Lightning, unless a setting says otherwise.
    """
    if trainer.threads is not None:
        return trainer.threads
    processes = num_processes(trainer)
    if processes == 1 or "OMP_NUM_THREADS" in os.environ:
        return torch.get_num_threads()
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return max(1, cores // processes)


def run_environment(config: TrainConfig) -> dict[str, Any]:
    """Return what decides the bits of the result beside the configuration, as plain data.

    On a GPU the number of host threads does not matter; the model of the GPU does.
    """
    facts: dict[str, Any] = {"processes": num_processes(config.trainer)}
    if uses_gpu(config.trainer):
        return facts | {"device": "cuda", "gpu": torch.cuda.get_device_name()}
    return facts | {"device": "cpu", "threads": num_threads(config.trainer)}


def describe_hardware() -> dict[str, str | int | dict[str, bool] | None]:
    """Return the machine's part of run.json; `tf32` says where a GPU computes float32 as TF32."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "cpu": _cpu_name(),
        "cpu_cores": os.cpu_count(),
        "gpu": gpu,
        "tf32": None if gpu is None else tf32_switches(),
        "system": platform.platform(),
    }


def _cpu_flags() -> set[str]:
    return set(_cpu_field("flags").split()) | set(_cpu_field("Features").split())


def _cpu_name() -> str:
    return _cpu_field("model name") or platform.processor() or platform.machine()


def _cpu_field(name: str) -> str:
    """Return the first such field of /proc/cpuinfo; empty on other systems than Linux."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return ""
    for line in info.read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""
