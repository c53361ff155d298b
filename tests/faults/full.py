"""python tests/faults/full.py [--seed N] [--only WORD]

The whole fault injection: some 900 runs that are killed, stopped or refused their disk, resumed,
and compared to the bit with runs that nothing happened to. Prints a table; exit code 1 if anything
was lost. About a quarter of an hour on one core, and twice as much for the part "ranks".
"""

import argparse
import errno
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import harness  # noqa: F401 - says where the others are
import injections as inject
import real_processes
import scenarios
from scenarios import Figure
from test_faults_kills import DISK_MUTANTS, KILLS, MUTANTS

ERRORS = (errno.ENOSPC, errno.EROFS, errno.EFBIG)
WORKERS = [("data.loader=workers", f"data.num_workers={count}") for count in (0, 2, 1)]
MUTANTS_OF_SEVERAL = (
    inject.sums_of_the_first_process,
    inject.statistics_of_each_process,
    inject.sums_by_the_bucket,
)


def parts(seed: int, root: Path) -> Iterator[tuple[str, Callable[[], Figure]]]:
    """Name, and what to call."""
    yield "random", partial(scenarios.random_kills, 100, seed, [()], root)
    yield "workers", partial(_with_workers, seed, root)
    yield "hooks", lambda: scenarios.kills_at_events(scenarios.all_events(root), root)
    yield (
        "checkpoints",
        partial(scenarios.kills_inside_checkpoints, 40, seed, "/dev/shm", root),
    )
    yield "rows", partial(scenarios.kills_inside_rows, 40, seed, root)
    yield "SIGTERM", partial(scenarios.signals, signal.SIGTERM, 30, seed, root)
    yield "SIGINT", partial(scenarios.signals, signal.SIGINT, 30, seed, root)
    yield "damaged", partial(scenarios.damaged_checkpoints, 200, seed, root)
    for number in ERRORS:
        yield errno.errorcode[number], partial(_failing_writes, number, root)
    sizes = [4_000, 6_000, 8_000, 10_000, 12_000, 14_000]
    yield "limit", partial(scenarios.file_size_limits, sizes, root)
    yield "disk", partial(scenarios.full_disks, range(8_192, 90_000, 8_192), root)
    yield "data", partial(scenarios.killed_fetches, 10, seed, root)
    yield "mutants", partial(_mutants, root)
    for strategy in ("ddp", "ddp_spawn"):
        yield f"ranks {strategy}", partial(real_processes.random_kills, strategy, 12, seed, root)
        for number in (signal.SIGTERM, signal.SIGINT):
            yield (
                f"ranks {strategy} {number.name}",
                partial(real_processes.signals, strategy, number, 6, seed, root),
            )
    yield "ranks mutants", partial(_mutants_of_several, root)


def _with_workers(seed: int, root: Path) -> Figure:
    figure = scenarios.random_kills(20, seed, WORKERS, root)
    figure.what += ", with 0, 2, 1 loader workers in turn"
    return figure


def _failing_writes(number: int, root: Path) -> Figure:
    cases = [(*call, number) for call in scenarios.disk_calls(root)]
    return scenarios.failing_writes(cases, root)


def _mutants(root: Path) -> Figure:
    figure = Figure("mutants that a short test catches")
    for mutant, when in MUTANTS.items():
        caught = scenarios.killed_and_resumed(*KILLS[when], mutant, root)
        problems = [] if caught and not caught[0].startswith("was not") else ["not caught"]
        figure.count(problems, mutant.__name__)
    for mutant, problem in DISK_MUTANTS.items():
        caught = scenarios.careless_writes(mutant, root)
        is_caught = any(problem in found for found in caught)
        figure.count([] if is_caught else ["not caught"], mutant.__name__)
    return figure


def _mutants_of_several(root: Path) -> Figure:
    figure = Figure("mutants of several processes that a short test catches")
    for mutant in MUTANTS_OF_SEVERAL:
        directory = root / mutant.__name__
        ended = scenarios.stopped_among_three(directory, 1, inject.die, mutant)
        caught = scenarios.three_resume(ended, directory, 1, 2, mutant, root)
        is_caught = caught != [] and all(p.startswith((".", "results ")) for p in caught)
        figure.count([] if is_caught else [f"not caught: {caught}"], mutant.__name__)
    return figure


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="part of a part's name")
    arguments = parser.parse_args(argv)
    lost = 0
    print(f"{'tried':>6} {'lost':>5} {'seconds':>8}  what")
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        for name, call in parts(arguments.seed, Path(folder)):
            if arguments.only not in name:
                continue
            started = time.monotonic()
            figure = call()
            seconds = time.monotonic() - started
            note = f" ({figure.note})" if figure.note else ""
            print(f"{figure.tried:>6} {len(figure.lost):>5} {seconds:>8.0f}  {figure.what}{note}")
            for line in figure.lost:
                print(f"{'':>23}{line}")
            sys.stdout.flush()
            lost += len(figure.lost)
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
