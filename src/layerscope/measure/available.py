"""The memory that a device has left for a step."""

from pathlib import Path

import torch

_MEMINFO = Path("/proc/meminfo")
# Memory limits of this process's group: of a container or a batch job. Only the limit counts: the
# group's usage contains its file cache, which gives way.
_GROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def available_bytes(device: torch.device | str) -> int | None:
    """Return the free bytes of a device; None if the system does not tell."""
    device = torch.device(device)
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + held
    if device.type != "cpu":
        return None
    known = [_of_the_system(), *map(_of_the_group, _GROUP_LIMITS)]
    return min((number for number in known if number is not None), default=None)


def _of_the_system() -> int | None:
    try:
        lines = _MEMINFO.read_text().splitlines()
    except OSError:
        return None
    found = [line.split() for line in lines if line.startswith("MemAvailable:")]
    return int(found[0][1]) * 1024 if found else None


def _of_the_group(limit: Path) -> int | None:
    try:
        return int(limit.read_text())
    except (OSError, ValueError):  # There is no such group, or its limit is "max".
        return None
