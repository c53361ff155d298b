"""python benchmarks/profile_speed.py [--network resnet50] [--rounds 7]

What a profile costs, as ratios measured in turn in one process: the dry run of a whole training
step with all tables against torchinfo's forward-only summary, a whole profile without clock against
a bare forward and against that summary, the first call, the memory that a second one adds, and how
the time grows with the number of operations.
"""

import argparse
import gc
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import torch
import torchinfo
import torchvision
from torch import nn

import layerscope
from layerscope.dry_run import dry_run
from layerscope.reconcile.account import Account, account

SHAPE = (1, 3, 224, 224)
FAMILY = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")


def all_tables(network: nn.Module) -> Account:
    """Run a step dry: forward and backward costs, saved bytes with reasons, peak, timeline."""
    tables = account(dry_run(network, (torch.empty(SHAPE, device="meta"),)), element_size=4)
    assert tables.costs.total().macs
    assert tables.saved_by_layer
    assert tables.run.live_peak_bytes
    assert tables.run.timeline
    return tables


def whole_profile(network: nn.Module) -> None:
    layerscope.profile(network, SHAPE)


def bare_forward(network: nn.Module, image: torch.Tensor) -> None:
    with torch.no_grad():
        network(image)


def bare_step(network: nn.Module, image: torch.Tensor) -> None:
    network(image).sum().backward()
    network.zero_grad()


def seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def in_turn(rounds: int, *works: Callable[[], object]) -> list[list[float]]:
    """Seconds of each, one after the other, so that what disturbs one disturbs all.

    As in timeit, the collector of garbage does its work between the timings.
    """
    for work in works:
        work()  # warm up
    measured: list[list[float]] = [[] for _ in works]
    for _ in range(rounds):
        for times, work in zip(measured, works, strict=True):
            gc.collect()
            gc.disable()
            times.append(seconds(work))
            gc.enable()
    return measured


def ratios(times: list[float], reference: list[float]) -> str:
    each = sorted(a / b for a, b in zip(times, reference, strict=True))
    return f"{median(each):.2f} ({each[0]:.2f} to {each[-1]:.2f})"


def peak_rss_bytes() -> int:
    """VmHWM: the most that this process has had."""
    line = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line
    )
    return int(line.split()[1]) * 1024


def second_calls_memory(network: nn.Module) -> list[int]:
    """Return what the second dry run, and the second profile, add to the peak RSS."""
    added: list[int] = []
    for work in (all_tables, whole_profile):
        work(network)
        gc.collect()
        before = peak_rss_bytes()
        work(network)
        added.append(peak_rss_bytes() - before)
    return added


def built(name: str) -> nn.Module:
    """Return a network of torchvision, or of timm where that is installed."""
    if name in torchvision.models.list_models(module=torchvision.models):
        return torchvision.models.get_model(name)
    import timm  # pyright: ignore[reportMissingImports]

    return timm.create_model(name)


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="resnet50")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args(argv)
    network = built(options.network)
    print(f"{options.network}, input {SHAPE}, torch {torch.__version__}")
    print(f"{torch.get_num_threads()} threads; median of {options.rounds} rounds (range)")
    print(f"first dry run with all tables: {seconds(lambda: all_tables(network)):.2f} s")
    tables_bytes, profile_bytes = second_calls_memory(network)
    print(f"second dry run adds to the peak RSS: {tables_bytes / 2**20:.1f} MiB")
    print(f"second profile adds:                 {profile_bytes / 2**20:.1f} MiB")
    tables, summary = in_turn(
        options.rounds,
        lambda: all_tables(network),
        lambda: str(torchinfo.summary(network, SHAPE, verbose=0)),
    )
    print(f"dry run, all tables: {1000 * median(tables):.1f} ms, ", end="")
    print(f"{ratios(tables, summary)} of torchinfo's")
    image = torch.randn(SHAPE)
    forward, step, profile, summary = in_turn(
        options.rounds,
        lambda: bare_forward(network, image),
        lambda: bare_step(network, image),
        lambda: whole_profile(network),
        lambda: str(torchinfo.summary(network, SHAPE, verbose=0)),
    )
    print(f"bare step: {ratios(step, forward)} forwards")
    print(f"whole profile without clock: {ratios(profile, forward)} forwards, ", end="")
    print(f"{ratios(profile, summary)} of torchinfo's")
    for name in FAMILY if options.network in FAMILY else ():
        member = built(name)
        num_operations = len(all_tables(member).run.operations)
        (times,) = in_turn(options.rounds, lambda member=member: all_tables(member))
        each = 1e6 * median(times) / num_operations
        milliseconds = 1000 * median(times)
        print(f"{name}: {num_operations} operations, {milliseconds:.1f} ms, {each:.0f} us each")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
