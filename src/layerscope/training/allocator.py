"""Keep the memory that a step frees, for the next step."""

import ctypes
import platform

# mallopt's parameters, from malloc.h of the GNU C library.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
KEPT_BYTES = 1 << 30


def keep_freed_memory() -> bool:
    """Whether the C library was told so; for the rest of the process.

    glibc gives every block above 32 MiB at most back to the system when it is freed. A training
    step frees and allocates the same activations over and over, and each time the system must zero
    the pages again: benchmarks/throughput.py measures what that costs. Other C libraries have no
    such setting, or need none.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = {
        M_MMAP_THRESHOLD: KEPT_BYTES,
        M_TRIM_THRESHOLD: KEPT_BYTES,
        M_TOP_PAD: KEPT_BYTES // 4,
    }
    done = [mallopt(parameter, value) for parameter, value in settings.items()]
    return all(result == 1 for result in done)
