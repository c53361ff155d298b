"""What this machine can do at best: how fast it copies memory and multiplies matrices.

The copy moves a tensor far larger than any cache: 64 MiB on a CPU, 1 GiB on a GPU; a byte read and
a byte written count as two. The product is of two square matrices of the dtype in question: of
1,024 rows on a CPU (256 where that takes too long: a dtype without instructions of its own), 8,192
on a GPU; a multiply-accumulate counts as two. Both use the threads and the precision settings
(TF32) that torch has now.
"""

import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch

from layerscope.base.errors import UserError
from layerscope.measure.timing import Spread

_MIB = 2**20
_COPY_BYTES = {"cpu": 64 * _MIB, "cuda": 1024 * _MIB}
_MATRIX_ROWS = {"cpu": (256, 1024), "cuda": (8192,)}
_REPEATS = 9
_BUDGET_SECONDS = 0.4  # of one measurement


@dataclass(frozen=True)
class MachineCeilings:
    """Rates of one device.

    Args:
        name: of the processor or of the GPU.
        num_threads: of torch on the CPU; they do not matter to a GPU.
        dtype: of the matrices.
        matrix_rows: of the square matrices.
    """

    name: str
    device: str
    num_threads: int
    dtype: str
    matrix_rows: int
    torch_version: str
    copy_bytes_per_second: Spread
    matmul_flops_per_second: Spread


def machine_ceilings(device: torch.device | str, dtype: torch.dtype) -> MachineCeilings:
    """Measure both rates, in about a second; the random generators are not used.

    Raises:
        UserError: the device cannot multiply matrices of this dtype, or is no CPU or CUDA device.
    """
    device = torch.device(device)
    if device.type not in _COPY_BYTES:
        raise UserError(f"no ceilings are known for the device {device}: use cpu or cuda")
    try:
        copy_rates = _copy_rates(device)
        matrix_rows, matmul_rates = _matmul_rates(device, dtype)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built for CUDA
        reason = str(error).splitlines()[0]
        raise UserError(f"{device} cannot be measured with {dtype}: {reason}") from error
    return MachineCeilings(
        name=device_name(device),
        device=str(device),
        num_threads=torch.get_num_threads(),
        dtype=str(dtype).removeprefix("torch."),
        matrix_rows=matrix_rows,
        torch_version=torch.__version__,
        copy_bytes_per_second=copy_rates,
        matmul_flops_per_second=matmul_rates,
    )


def device_name(device: torch.device) -> str:
    """What the maker calls the GPU or the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpu_info = Path("/proc/cpuinfo")
    lines = cpu_info.read_text().splitlines() if cpu_info.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def _copy_rates(device: torch.device) -> Spread:
    num_bytes = _COPY_BYTES[device.type]
    source = torch.ones(num_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = _seconds(lambda: target.copy_(source), device)
    return Spread.of([2 * num_bytes / value for value in seconds])


def _matmul_rates(device: torch.device, dtype: torch.dtype) -> tuple[int, Spread]:
    """Of the largest matrices that the budget allows."""
    sizes = _MATRIX_ROWS[device.type]
    rows, seconds = sizes[0], _matmul_seconds(sizes[0], device, dtype)
    for larger in sizes[1:]:
        if min(seconds) * (larger / rows) ** 3 * 5 > _BUDGET_SECONDS:
            break
        rows, seconds = larger, _matmul_seconds(larger, device, dtype)
    return rows, Spread.of([2 * rows**3 / value for value in seconds])


def _matmul_seconds(rows: int, device: torch.device, dtype: torch.dtype) -> list[float]:
    left, right = (torch.ones(rows, rows, dtype=dtype, device=device) for _ in range(2))
    product = torch.empty_like(left)
    return _seconds(lambda: torch.mm(left, right, out=product), device)


def _seconds(work: Callable[[], object], device: torch.device) -> list[float]:
    """Of each repeat, at least three, after two for warm-up."""
    begin = perf_counter()
    seconds: list[float] = []
    for number in range(_REPEATS + 2):
        if len(seconds) >= 3 and perf_counter() - begin > _BUDGET_SECONDS:
            break
        started = perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if number >= 2:
            seconds.append(perf_counter() - started)
    return seconds
