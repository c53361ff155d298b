"""The runs of a sweep, read from their folders.

A folder may be half written, since the sweep still runs, or come from somebody else. So each file
is checked before anything is taken from it, and of a text only letters that print are kept.
"""

import csv
import io
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from layerscope.base.errors import UserError
from layerscope.config.overrides import key_of
from layerscope.report.sweep.failures import FAILURE_FILE
from layerscope.report.sweep.planned import planned_jobs

Status = Literal["finished", "failed", "unfinished", "not begun"]
# Keys that say how a command was resumed, and nothing about the job.
_OF_RESUMING = {"resume", "allow_changes"}
_MAX_BYTES = 2**28
_MAX_TEXT = 2_000


class _File(BaseModel):
    """What is read of a job's file."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)


_Read = TypeVar("_Read", bound=_File)
_Count = Annotated[int, Field(ge=0, le=10**18)]
_Share = Annotated[float, Field(ge=0, le=1)]


class _FailureFile(_File):
    overrides: tuple[str, ...] = Field(strict=False)
    reason: str


class _StartFile(_File):
    """run.json."""

    command: Annotated[tuple[str, ...], Field(min_length=1, strict=False)]


class _ResultsFile(_File):
    val_acc: _Share = Field(alias="val/acc")
    test_acc: _Share = Field(alias="test/acc")
    train_seconds: Annotated[float, Field(ge=0, le=1e12)]


class _LayerTotals(_File):
    num_parameters: _Count
    macs: _Count
    lower_bound: bool = False


class _LayersFile(_File):
    totals: _LayerTotals


class _MemoryTotals(_File):
    saved_bytes: _Count
    peak_bytes: _Count | None = None


class _MemoryFile(_File):
    totals: _MemoryTotals
    batch_size: _Count | None = None


class _ProfilePeak(_File):
    measured_bytes: _Count | None = None


class _ProfileFile(_File):
    peak: _ProfilePeak


class _Unreadable(Exception):
    """A file of a job is not what a run writes."""


@dataclass(frozen=True)
class EpochScores:
    """A row of metrics.csv; None where the row has no finite number."""

    epoch: int
    train_loss: float | None
    val_acc: float | None


@dataclass(frozen=True)
class SweptRun:
    """One job; what is not known of it is None.

    Args:
        path: of its folder in the sweep's directory; None: it was never begun.
        peak_bytes: of a training step, which a device has to report.
        profile_peak_bytes: measured by the run's profile, without an optimizer's step.
    """

    path: Path | None
    overrides: tuple[str, ...]
    status: Status
    reason: str | None = None
    num_parameters: int | None = None
    macs: int | None = None  # of one image
    macs_lower_bound: bool = False
    saved_bytes: int | None = None
    peak_bytes: int | None = None
    profile_peak_bytes: int | None = None
    batch_size: int | None = None
    val_acc: float | None = None
    test_acc: float | None = None
    seconds: float | None = None
    epochs: tuple[EpochScores, ...] = ()

    @property
    def job(self) -> str | None:
        """The name of its folder."""
        return None if self.path is None else printable(self.path.name)

    @property
    def folder(self) -> str | None:
        """The path of its folder as a text."""
        return None if self.path is None else printable(self.path.as_posix())

    @property
    def seed(self) -> str | None:
        """The seed as it was given; None if it was not."""
        seeds = (each.partition("=")[2] for each in self.overrides if key_of(each) == "seed")
        return next(seeds, None)

    @property
    def setting(self) -> tuple[str, ...]:
        """The overrides without the seed."""
        return tuple(each for each in self.overrides if key_of(each) != "seed")


def read_runs(directory: Path, has_ended: bool) -> tuple[SweptRun, ...]:
    """Return the runs of a sweep in the order of their folders, then those never begun.

    Args:
        has_ended: no job runs any more, so that one without results has failed.

    Raises:
        UserError: this is no directory of a sweep.
    """
    if not directory.is_dir():
        raise UserError(f"{directory} is no directory: give the one that hydra.sweep.dir named")
    if (directory / "run.json").exists():
        raise UserError(f"{directory} holds one run: give the directory of a sweep")
    folders = sorted(_job_folders(directory), key=_by_number)
    begun = [_read_run(directory, folder, has_ended) for folder in folders]
    known = {frozenset(run.overrides) for run in begun}
    planned = [_without_resuming(overrides) for overrides in planned_jobs(directory)]
    left = [SweptRun(None, each, "not begun") for each in planned if frozenset(each) not in known]
    if not begun and not left:
        raise UserError(
            f"{directory} holds no job of a sweep: give the directory that hydra.sweep.dir named"
        )
    return (*begun, *left)


def _job_folders(directory: Path) -> Iterator[Path]:
    """Yield the folders of jobs, wherever hydra.sweep.subdir has put them.

    What stands inside a job's folder, such as an evaluation of its checkpoint, is no job.
    """
    for folder, subfolders, files in os.walk(directory):
        is_job = FAILURE_FILE in files or {"run.json", "config.yaml"} <= set(files)
        if is_job and Path(folder) != directory:
            subfolders.clear()
            yield Path(folder).relative_to(directory)


def _by_number(folder: Path) -> tuple[tuple[int, str], ...]:
    """Order 2 before 10."""
    return tuple((len(part), part) for part in folder.parts)


def _read_run(directory: Path, path: Path, has_ended: bool) -> SweptRun:
    folder = directory / path
    overrides: tuple[str, ...] = ()
    try:
        failure = _read(folder / FAILURE_FILE, _FailureFile)
        start = None if failure else _read(folder / "run.json", _StartFile)
        given = failure.overrides if failure else start.command[1:] if start else ()
        overrides = _without_resuming(given)
        epochs = _read_epochs(folder / "metrics.csv")
        if failure is not None:
            reason = printable(failure.reason)
            return SweptRun(path, overrides, "failed", reason, epochs=epochs)
        results = _read(folder / "results.json", _ResultsFile)
        if results is None and has_ended:
            reason = "ended before its results were written"
            return SweptRun(path, overrides, "failed", reason, epochs=epochs)
        return _with_costs(folder, SweptRun(path, overrides, "unfinished"), results, epochs)
    except _Unreadable as error:
        return SweptRun(path, overrides, "failed", str(error))


def _with_costs(
    folder: Path, run: SweptRun, results: _ResultsFile | None, epochs: tuple[EpochScores, ...]
) -> SweptRun:
    layers = _read(folder / "layers.json", _LayersFile)
    memory = _read(folder / "activation_memory.json", _MemoryFile)
    profile = _read(folder / "profile.json", _ProfileFile)
    return SweptRun(
        path=run.path,
        overrides=run.overrides,
        status=run.status if results is None else "finished",
        reason=f"{len(epochs):,} epochs done so far" if results is None else None,
        num_parameters=layers and layers.totals.num_parameters,
        macs=layers and layers.totals.macs,
        macs_lower_bound=layers is not None and layers.totals.lower_bound,
        saved_bytes=memory and memory.totals.saved_bytes,
        peak_bytes=memory and memory.totals.peak_bytes,
        profile_peak_bytes=profile and profile.peak.measured_bytes,
        batch_size=memory and memory.batch_size,
        val_acc=results and results.val_acc,
        test_acc=results and results.test_acc,
        seconds=results and results.train_seconds,
        epochs=epochs,
    )


def _read(path: Path, schema: type[_Read]) -> _Read | None:
    """Return what a file says; None if there is none.

    Raises:
        _Unreadable: it says something else.
    """
    content = _content(path)
    if content is None:
        return None
    try:
        return schema.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise _Unreadable(printable(f"{path.name}: {where} {first['msg']}")) from error


def _content(path: Path) -> bytes | None:
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise _Unreadable(f"{path.name}: {error.strerror}") from error
    if len(content) > _MAX_BYTES:
        raise _Unreadable(f"{path.name} has more than {_MAX_BYTES:,} bytes")
    return content


def _read_epochs(path: Path) -> tuple[EpochScores, ...]:
    """Return the whole rows of metrics.csv; of a running job the last one may be half written."""
    content = _content(path)
    if content is None:
        return ()
    lines = content.decode("utf-8", "replace").splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]
    rows = csv.DictReader(io.StringIO("".join(whole)))
    try:
        found = [
            EpochScores(epoch, _finite(row.get("train/loss")), _finite(row.get("val/acc")))
            for row in rows
            if (epoch := _whole(row.get("epoch"))) is not None
        ]
    except csv.Error as error:
        raise _Unreadable(f"{path.name}: {error}") from error
    return tuple(found)


def _finite(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) and abs(value) < 1e15 else None


def _whole(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 12 else None


def _without_resuming(overrides: Sequence[str]) -> tuple[str, ...]:
    return tuple(printable(each) for each in overrides if key_of(each) not in _OF_RESUMING)


def printable(text: str) -> str:
    """Return the text without what a terminal or a page would take for a command."""
    short = text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + " …"
    return "".join(c if c.isprintable() else "?" for c in short)
