"""The highest rates of this machine, measured: copying memory and multiplying matrices.

The copy moves a tensor far larger than any cache: 64 MiB on a CPU, 1 GiB on a GPU. A byte read and
a byte written count as two. The product is of two square matrices of the given dtype, with 8,192
rows on a GPU and 1,024 on a CPU, or 256 if that takes too long (a dtype without instructions of its
own). A multiply-accumulate counts as two. The numbers are random: with ones a GPU draws less power
and is 13 % faster. Both use torch's present number of threads and precision settings. A GPU may
multiply float32 matrices as TF32. torch has one switch for matrices (off by default) and one for
cuDNN's convolutions (on by default): the product is measured with each.
"""

import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch

from layerscope.base.errors import UserError
from layerscope.measure.step import synchronize
from layerscope.measure.timing import Spread

_MIB = 2**20
_COPY_BYTES = {"cpu": 64 * _MIB, "cuda": 1024 * _MIB}
_MATRIX_ROWS = {"cpu": (256, 1024), "cuda": (8192,)}
_REPEATS = 9
_BUDGET_SECONDS = 0.4  # for one measurement


@dataclass(frozen=True)
class MachineCeilings:
    """The highest rates of one device.

    Args:
        name: name of the processor or of the GPU.
        num_threads: torch's threads on the CPU; they do not matter to a GPU.
        dtype: type of the matrices' elements.
        matrix_rows: rows of the square matrices.
        matmul_precision, convolution_precision: precision in which a GPU computes: `tf32`, or the
            dtype.
        convolution_flops_per_second: rate of the product in the precision of cuDNN's convolutions.
    """

    name: str
    device: str
    num_threads: int
    dtype: str
    matrix_rows: int
    matmul_precision: str
    convolution_precision: str
    torch_version: str
    copy_bytes_per_second: Spread
    matmul_flops_per_second: Spread
    convolution_flops_per_second: Spread


def machine_ceilings(device: torch.device | str, dtype: torch.dtype) -> MachineCeilings:
    """Measure the rates in one to two seconds. torch's random generators stay as they are.

    Raises:
        UserError: the device is no CPU or CUDA device, or cannot multiply matrices of this dtype.
    """
    device = torch.device(device)
    if device.type not in _COPY_BYTES:
        raise UserError(f"no ceilings are known for the device {device}: use cpu or cuda")
    try:
        copy_rates = _copy_rates(device)
        matrix_rows, matmul_rates = _matmul_rates(device, dtype)
        matmul_precision, convolution_precision = _precisions(device, dtype)
        convolution_rates = matmul_rates
        if convolution_precision != matmul_precision:
            with _float32_products_in("tf32" if convolution_precision == "tf32" else "ieee"):
                _, convolution_rates = _matmul_rates(device, dtype)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built with CUDA.
        reason = str(error).splitlines()[0]
        raise UserError(f"{device} cannot be measured with {dtype}: {reason}") from error
    return MachineCeilings(
        name=device_name(device),
        device=str(device),
        num_threads=torch.get_num_threads(),
        dtype=str(dtype).removeprefix("torch."),
        matrix_rows=matrix_rows,
        matmul_precision=matmul_precision,
        convolution_precision=convolution_precision,
        torch_version=torch.__version__,
        copy_bytes_per_second=copy_rates,
        matmul_flops_per_second=matmul_rates,
        convolution_flops_per_second=convolution_rates,
    )


def device_name(device: torch.device) -> str:
    """Return the manufacturer's name of the GPU or the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpu_info = Path("/proc/cpuinfo")
    lines = cpu_info.read_text().splitlines() if cpu_info.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def tf32_switches() -> dict[str, bool]:
    """Return where torch lets a GPU compute float32 as TF32: `matmul`, `convolution`."""
    return {
        "matmul": torch.backends.cuda.matmul.fp32_precision == "tf32",
        "convolution": torch.backends.cudnn.conv.fp32_precision == "tf32",  # pyright: ignore[reportAttributeAccessIssue]
    }


def _precisions(device: torch.device, dtype: torch.dtype) -> tuple[str, str]:
    """Return the precisions in which matrix products and convolutions are computed."""
    name = str(dtype).removeprefix("torch.")
    if device.type != "cuda" or dtype != torch.float32:
        return name, name
    switches = tf32_switches()
    matmul, convolution = ("tf32" if is_on else name for is_on in switches.values())
    return matmul, convolution


@contextmanager
def _float32_products_in(precision: str) -> Iterator[None]:
    settings = torch.backends.cuda.matmul
    before = settings.fp32_precision
    settings.fp32_precision = precision
    try:
        yield
    finally:
        settings.fp32_precision = before


def _copy_rates(device: torch.device) -> Spread:
    num_bytes = _COPY_BYTES[device.type]
    source = torch.ones(num_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = _seconds(lambda: target.copy_(source), device)
    return Spread.of([2 * num_bytes / value for value in seconds])


def _matmul_rates(device: torch.device, dtype: torch.dtype) -> tuple[int, Spread]:
    """Return the rows, and the FLOPs per second, of the largest matrices in the time budget."""
    sizes = _MATRIX_ROWS[device.type]
    rows, seconds = sizes[0], _matmul_seconds(sizes[0], device, dtype)
    for larger in sizes[1:]:
        if min(seconds) * (larger / rows) ** 3 * 5 > _BUDGET_SECONDS:
            break
        rows, seconds = larger, _matmul_seconds(larger, device, dtype)
    return rows, Spread.of([2 * rows**3 / value for value in seconds])


def _matmul_seconds(rows: int, device: torch.device, dtype: torch.dtype) -> list[float]:
    generator = torch.Generator(device).manual_seed(0)
    left, right = (
        torch.randn(rows, rows, dtype=dtype, device=device, generator=generator) for _ in range(2)
    )
    product = torch.empty_like(left)
    return _seconds(lambda: torch.mm(left, right, out=product), device)


def _seconds(work: Callable[[], object], device: torch.device) -> list[float]:
    """Return the seconds of each repeat, at least three, after two for warm-up."""
    begin = perf_counter()
    seconds: list[float] = []
    for number in range(_REPEATS + 2):
        if len(seconds) >= 3 and perf_counter() - begin > _BUDGET_SECONDS:
            break
        started = perf_counter()
        work()
        synchronize(device)
        if number >= 2:
            seconds.append(perf_counter() - started)
    return seconds
