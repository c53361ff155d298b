"""Profile the networks of the zoo, store the results, and list what stays unexplained."""

import argparse
import gc
import json
import multiprocessing
import time
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from layerscope.base.errors import UserError
from layerscope.base.formatting import count_exact
from layerscope.layers.tensors import map_tensors
from layerscope.reconcile import CallArguments, Profile, ProfileSettings, Row, profile_network
from layerscope.report.terminal import Screen, complain
from layerscope.zoo.networks import GROUPS, Entry, ZooGroup

# All networks run in `train`, some also in the other variants. channels_last comes last, since it
# changes the network.
VARIANTS = ("train", "eval", "bf16_autocast", "channels_last")
# Number of networks in each group that run in all variants; all of torchvision's classifiers do.
NETWORKS_WITH_VARIANTS = 10
ALL_WITH_VARIANTS = "torchvision"

RESULTS = "results.jsonl"
SHOWN_ROWS = 3  # unexplained rows shown per network; the file has all of them
# A worker's caches grow with every network.
TASKS_PER_WORKER = 40


@dataclass(frozen=True)
class Result:
    """The result for one network under one variant: a line of results.jsonl.

    Args:
        is_real: the network's code depends on values, so that it was described on real tensors.
        failing: rows that are unexplained or unknown.
        error: type and message of the error that stopped it; None without an error.
    """

    name: str
    group: str
    variant: str
    seconds: float
    num_compared: int = 0
    num_unexplained: int = 0
    num_trivial: int = 0
    num_not_counted: int = 0
    num_unknown: int = 0
    predicted_live_bytes: int | None = None
    measured_live_bytes: int | None = None
    is_real: bool = False
    notes: Sequence[str] = ()
    failing: Sequence[Mapping[str, Any]] = ()
    error: str | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        """Group, name and variant, which identify a result."""
        return self.group, self.name, self.variant

    @property
    def title(self) -> str:
        """The name, such as `timm/vgg11`, followed by the variant unless it is `train`."""
        end = "" if self.variant == "train" else f" ({self.variant})"
        return f"{self.group}/{self.name}{end}"

    @property
    def is_left(self) -> bool:
        """Tell whether something is unexplained or unknown, or went wrong."""
        return bool(self.error or self.num_unexplained or self.num_unknown)

    @property
    def live_difference(self) -> int | None:
        """Measured live peak minus the predicted one; None if they are not compared."""
        if self.predicted_live_bytes is None or self.measured_live_bytes is None:
            return None
        if self.variant == "bf16_autocast":  # Here the allocator rounds.
            return None
        return self.measured_live_bytes - self.predicted_live_bytes


class Task(NamedTuple):
    """A network, and its variants without a result."""

    entry: Entry
    variants: tuple[str, ...]


# One network --------------------------------------------------------------------------------------


def results_of(task: Task) -> Iterator[Result]:
    """Profile a network under each variant."""
    begin = time.perf_counter()
    network: nn.Module | None = None
    for variant in task.variants:
        try:
            torch.manual_seed(0)
            network = task.entry.build() if network is None else network
            result = _result(task.entry, variant, _profile(task.entry, network, variant), begin)
        # The tool looks for failures of any kind, and continues with the other networks.
        except Exception as error:  # noqa: BLE001
            result = _failed(task.entry, variant, f"{type(error).__name__}: {error}", begin)
        yield result
        begin = time.perf_counter()


def _profile(entry: Entry, network: nn.Module, variant: str) -> Profile:
    call = entry.call()
    channels_last = variant == "channels_last"
    if channels_last:
        for parameter in network.parameters():
            parameter.data = _channels_last(parameter.data)
        args, kwargs = map_tensors((call.args, dict(call.kwargs)), _channels_last)
        call = CallArguments(args, kwargs, call.loss)
    settings = ProfileSettings(
        network=entry.name,
        input_shape=call.description,
        dtype=variant if variant == "bf16_autocast" else "float32",
        channels_last=channels_last,
        train=variant != "eval",
        as_it_is=True,
    )
    return profile_network(network, settings, call=call)


def _channels_last(tensor: Tensor) -> Tensor:
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return tensor.contiguous(memory_format=formats.get(tensor.dim(), torch.contiguous_format))


def _result(entry: Entry, variant: str, profile: Profile, begin: float) -> Result:
    return Result(
        name=entry.name,
        group=entry.group,
        variant=variant,
        seconds=round(time.perf_counter() - begin, 2),
        **asdict(profile.comparisons),
        predicted_live_bytes=profile.peak.predicted_live_bytes,
        measured_live_bytes=profile.peak.measured_live_bytes,
        is_real=profile.run.is_real,
        notes=profile.notes,
        failing=[_described(row) for row in _failing_rows(profile)],
    )


def _failing_rows(profile: Profile) -> list[Row]:
    peaks = (row for row in profile.totals if row.quantity == "live_peak_bytes")
    exact = (row for row in (*profile.rows, *peaks) if row.is_exact and row.counted)
    return [row for row in exact if row.unexplained or row.predicted is None]


def _described(row: Row) -> dict[str, Any]:
    return {
        "layer": row.layer,
        "type": row.type,
        "quantity": row.quantity,
        "instrument": row.instrument,
        "theory": row.theory,
        "reasons": [[reason.code, reason.amount] for reason in row.reasons],
        "predicted": row.predicted,
        "measured": row.measured,
    }


def _failed(entry: Entry, variant: str, error: str, begin: float) -> Result:
    seconds = round(time.perf_counter() - begin, 2)
    return Result(entry.name, entry.group, variant, seconds, error=" ".join(error.split()))


# Worker processes ---------------------------------------------------------------------------------


class _Worker:
    """A process that profiles one network after another.

    A network that crashes or takes too much memory ends this process, and no other check.
    """

    def __init__(self) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])  # Workers share one import of torch.
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        self.waiting: list[str] = []
        self.num_tasks = 0
        self._task: Task | None = None
        self._begin = 0.0

    @property
    def is_idle(self) -> bool:
        return not self.waiting

    def start(self, task: Task) -> None:
        self._task, self.waiting = task, list(task.variants)
        self._begin = time.perf_counter()
        self.num_tasks += 1
        self.connection.send(task)

    def receive(self) -> Result:
        """Return the next result; one with an error if the process has ended."""
        assert self._task is not None
        variant = self.waiting.pop(0)
        try:
            result = self.connection.recv()
        except EOFError:
            self._process.join()
            error = f"its process ended with exit code {self._process.exitcode}"
            return _failed(self._task.entry, variant, error, self._begin)
        self._begin = time.perf_counter()
        return result

    @property
    def is_alive(self) -> bool:
        return self._process.exitcode is None

    def close(self) -> None:
        self.connection.close()
        self._process.join()


def _serve(connection: Connection) -> None:
    warnings.simplefilter("ignore")  # Warnings of the networks do not matter here.
    torch.set_num_threads(1)
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        for result in results_of(task):
            connection.send(result)
        gc.collect()  # Networks have reference cycles, and the next one needs the memory.


def run_tasks(tasks: Iterable[Task], jobs: int) -> Iterator[Result]:
    """Profile networks in `jobs` processes; yield results in the order of completion."""
    todo = deque(tasks)
    workers: list[_Worker] = []
    try:
        while True:
            while todo and sum(not worker.is_idle for worker in workers) < jobs:
                _ready_worker(workers).start(todo.popleft())
            busy = {w.connection: w for w in workers if not w.is_idle}
            if not busy:
                return
            for connection in wait(list(busy)):
                worker = busy[connection]  # type: ignore[index]
                yield worker.receive()
                if not worker.is_alive:
                    # A new process tries the variants that this one did not reach.
                    if worker.waiting and worker._task:
                        todo.appendleft(Task(worker._task.entry, tuple(worker.waiting)))
                        worker.waiting = []
                    workers.remove(worker)
    finally:
        for worker in workers:
            worker.close()


def _ready_worker(workers: list[_Worker]) -> _Worker:
    """Return an idle worker that may take another task; a new one if there is none."""
    for worker in [worker for worker in workers if worker.is_idle]:
        if worker.num_tasks < TASKS_PER_WORKER:
            return worker
        worker.close()
        workers.remove(worker)
    workers.append(_Worker())
    return workers[-1]


# All of them --------------------------------------------------------------------------------------


def run_zoo(
    directory: Path,
    only: Sequence[str] = (),
    variants: Sequence[str] = (),
    jobs: int = 1,
    retry: bool = False,
    groups: Sequence[ZooGroup] = GROUPS,
    screen: Screen | None = None,
) -> int:
    """Profile the networks without a result, show the table, and return the exit code.

    Args:
        directory: folder of the results.
        only: groups, networks or `group/network`; by default all.
        variants: further variants beside `train`. They are for ten networks of each group, for all
            of torchvision's classifiers, and for the networks that `only` names.
        retry: run networks again that failed or have unexplained rows.

    Raises:
        UserError: `only` has a name that is not in the zoo.
    """
    screen = screen or Screen()
    tasks, missing = zoo_tasks(only, variants, groups)
    for group in missing:
        screen.say(f"{group.name}: skipped, {group.library} is not installed")
    path = directory / RESULTS
    results = read_results(path)
    wanted = {(t.entry.group, t.entry.name, v) for t in tasks for v in t.variants}
    done = {key for key, result in results.items() if not (retry and result.is_left)}
    todo = [Task(t.entry, _not_in(t, done)) for t in tasks]
    todo = [task for task in todo if task.variants]
    directory.mkdir(parents=True, exist_ok=True)
    for result in run_tasks(todo, jobs):
        _append(path, result)
        results[result.key] = result
        screen.say(_line(result))
    shown = [result for key, result in results.items() if key in wanted]
    show_results(shown, screen)
    return 1 if any(result.is_left for result in shown) else 0


def _not_in(task: Task, done: set[tuple[str, str, str]]) -> tuple[str, ...]:
    entry = task.entry
    return tuple(v for v in task.variants if (entry.group, entry.name, v) not in done)


def zoo_tasks(
    only: Sequence[str], variants: Sequence[str], groups: Sequence[ZooGroup]
) -> tuple[list[Task], list[ZooGroup]]:
    """Return the requested networks, and the groups whose library is not installed.

    Raises:
        UserError: a name is neither a group nor a network.
    """
    tasks: list[Task] = []
    missing: list[ZooGroup] = []
    unknown = set(only)
    for group in groups:
        if not group.is_available:
            missing.append(group)
            unknown.discard(group.name)
            continue
        entries = list(group.entries())
        step = max(1, len(entries) // NETWORKS_WITH_VARIANTS)
        some = {entry.name for entry in entries[::step][:NETWORKS_WITH_VARIANTS]}
        for entry in entries:
            names = {entry.name, f"{group.name}/{entry.name}"}
            found = {group.name, *names}.intersection(only)
            unknown -= found
            if only and not found:
                continue
            is_full = group.name == ALL_WITH_VARIANTS or entry.name in some or names & found
            wanted = {"train", *variants} if is_full else {"train"}
            tasks.append(Task(entry, tuple(v for v in VARIANTS if v in wanted)))
    if unknown:
        known = ", ".join(group.name for group in groups)
        raise UserError(
            f"{min(unknown)} is no network of the zoo: give the name of one, or a group ({known})"
        )
    return tasks, missing if not only else [g for g in missing if g.name in only]


def read_results(path: Path) -> dict[tuple[str, str, str], Result]:
    """Return the last result for each network and variant; an empty dict without a file."""
    results: dict[tuple[str, str, str], Result] = {}
    if not path.exists():
        return results
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            result = Result(**json.loads(line))
        except (json.JSONDecodeError, TypeError):
            continue  # The tool was stopped while it wrote this line.
        results[result.key] = result
    return results


def _append(path: Path, result: Result) -> None:
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    with path.open("a", encoding="utf-8") as file:
        file.write("\n" * bool(text and not text.endswith("\n")))
        file.write(json.dumps(asdict(result)) + "\n")


# What is shown ------------------------------------------------------------------------------------

COLUMNS = (
    *("group", "runs", "compared", "unexplained", "unknown"),
    *("not counted", "exact peaks", "failed", "seconds"),
)


def _line(result: Result) -> str:
    if result.error is not None:
        return f"{result.title}: {result.error}"
    unknown = f", {result.num_unknown} unknown" if result.num_unknown else ""
    counts = f"{result.num_unexplained} of {result.num_compared} unexplained{unknown}"
    return f"{result.title}: {counts}, {result.seconds:.1f} s"


def show_results(results: Sequence[Result], screen: Screen) -> None:
    """Show a table by group, and below it the failures and unexplained rows."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.group, []).append(result)
    rows = [_cells(name, group) for name, group in groups.items()]
    screen.table("the zoo, batch 2", COLUMNS, rows, total=_cells("total", results))
    for result in results:
        if result.is_left:
            screen.say(_line(result))
            for row in result.failing[:SHOWN_ROWS]:
                screen.say(f"    {_row_line(row)}")
            if len(result.failing) > SHOWN_ROWS:
                screen.say(f"    and {len(result.failing) - SHOWN_ROWS} more in {RESULTS}")


def _cells(name: str, results: Sequence[Result]) -> tuple[str, ...]:
    differences = [r.live_difference for r in results if r.live_difference is not None]
    return (
        name,
        str(len(results)),
        f"{sum(r.num_compared for r in results):,}",
        f"{sum(r.num_unexplained for r in results):,}",
        f"{sum(r.num_unknown for r in results):,}",
        f"{sum(r.num_not_counted for r in results):,}",
        f"{differences.count(0)} of {len(differences)}",
        str(sum(r.error is not None for r in results)),
        f"{sum(r.seconds for r in results):.0f}",
    )


def _row_line(row: Mapping[str, Any]) -> str:
    what = f"{row['layer']} ({row['type']}) {row['quantity']} by {row['instrument']}"
    if row["predicted"] is None:
        return f"{what}: no theory, measured {count_exact(row['measured'])}"
    return f"{what}: predicted {row['predicted']:,}, measured {row['measured']:,}"


# The command --------------------------------------------------------------------------------------


def main(argv: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="check_zoo.py", description=__doc__)
    only = "a group, or a network of it; may be given several times"
    parser.add_argument("--only", action="append", default=[], metavar="GROUP|NAME", help=only)
    parser.add_argument(
        "--variants",
        nargs="*",
        choices=VARIANTS[1:],
        help="also these variants, by default all: of torchvision's classifiers and of ten "
        "networks of each other group",
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes, of one thread each")
    parser.add_argument("--retry", action="store_true", help="run again what is left or failed")
    directory = "folder of the results; what has one is not run again"
    parser.add_argument("--directory", type=Path, default=Path("outputs/zoo"), help=directory)
    options = parser.parse_args(argv)
    variants = () if options.variants is None else options.variants or VARIANTS[1:]
    try:
        return run_zoo(options.directory, options.only, variants, options.jobs, options.retry)
    except UserError as error:
        complain(f"error: {error}")
        return error.exit_code
