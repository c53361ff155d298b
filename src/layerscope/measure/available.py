"""How much memory a device has for a step."""

from pathlib import Path

import torch

_MEMINFO = Path("/proc/meminfo")
# Of the group of processes that this one is in: a container, a batch job. What the group uses holds
# its files' cache too, which gives way, so that only the limit tells.
_GROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def available_bytes(device: torch.device | str) -> int | None:
    """None where the system does not say."""
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
    except (OSError, ValueError):  # no such group, or one without a limit, "max"
        return None
