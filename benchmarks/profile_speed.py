"""python benchmarks/profile_speed.py [--network resnet50] [--rounds 7]

What a profile costs, as ratios measured in turn in one process: the theory table against
torchinfo's forward-only summary, all instruments but clock and ceilings against a bare forward, the
memory that a second call adds, and how the table's time grows with the number of layers.
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

from layerscope.layers import describe
from layerscope.measure import Step
from layerscope.reconcile import EXACT_INSTRUMENTS, Settings
from layerscope.reconcile.account import account
from layerscope.reconcile.measurements import measure
from layerscope.theory.step import step_memory

SHAPE = (1, 3, 224, 224)
FAMILY = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")


def theory_table(network: nn.Module) -> None:
    """Forward, backward, kept bytes and the peak of a step."""
    theory = account(describe(network, SHAPE), element_size=4)
    theory.costs.total()
    step_memory(theory.network, theory.saved)


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


def second_calls_memory(network: nn.Module) -> tuple[int, int]:
    """What the second theory table, and the second run of all instruments, add to the peak RSS."""
    image = torch.randn(SHAPE)
    settings = Settings("network", SHAPE)
    works = (
        lambda: theory_table(network),
        lambda: measure(Step(network, image), settings, EXACT_INSTRUMENTS),
    )
    added: list[int] = []
    for work in works:
        work()
        gc.collect()
        before = peak_rss_bytes()
        work()
        added.append(peak_rss_bytes() - before)
    return added[0], added[1]


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="resnet50")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args(argv)
    network = torchvision.models.get_model(options.network)
    print(f"{options.network}, input {SHAPE}, torch {torch.__version__}")
    print(f"{torch.get_num_threads()} threads; median of {options.rounds} rounds (range)")
    table_bytes, instrument_bytes = second_calls_memory(network)
    print(f"second theory table adds to the peak RSS: {table_bytes / 2**20:.1f} MiB")
    print(f"second run of the instruments adds:       {instrument_bytes / 2**20:.1f} MiB")
    table, summary = in_turn(
        options.rounds,
        lambda: theory_table(network),
        lambda: str(torchinfo.summary(network, SHAPE, verbose=0)),
    )
    print(f"theory table: {1000 * median(table):.1f} ms, {ratios(table, summary)} of torchinfo's")
    image, settings = torch.randn(SHAPE), Settings("network", SHAPE)
    forward, step, instruments = in_turn(
        options.rounds,
        lambda: bare_forward(network, image),
        lambda: bare_step(network, image),
        lambda: measure(Step(network, image), settings, EXACT_INSTRUMENTS),
    )
    print(f"bare step: {ratios(step, forward)} forwards")
    print(f"all instruments but clock and ceilings: {ratios(instruments, forward)} forwards")
    for name in FAMILY:
        member = torchvision.models.get_model(name)
        num_layers = len(describe(member, SHAPE).layers)
        (times,) = in_turn(options.rounds, lambda member=member: theory_table(member))
        each = 1e6 * median(times) / num_layers
        print(f"{name}: {num_layers} layers, {1000 * median(times):.1f} ms, {each:.0f} us a layer")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
