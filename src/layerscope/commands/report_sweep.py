"""Report on a sweep's directory: one that has ended, was stopped, or still runs."""

from functools import partial
from pathlib import Path

from layerscope.base.errors import UserError
from layerscope.commands.runner import Job, Request
from layerscope.report.sweep.report import finish_sweep, save_sweep, show_sweep
from layerscope.report.sweep.results import SweepResults, sweep_results
from layerscope.report.terminal import Screen

__all__ = ["check_report", "finish_sweep"]


def check_report(request: Request) -> Job:
    """Read the runs, and only then let anything be written.

    Raises:
        UserError: there is no sweep, or a key is given.
    """
    if request.file is None:
        raise UserError("there is nothing to report on: give a sweep's directory, report-sweep DIR")
    if request.overrides:
        raise UserError(f"report-sweep has no keys: leave out {request.overrides[0]}")
    return partial(_save, request.file, sweep_results(request.file, has_ended=False))


def _save(directory: Path, sweep: SweepResults, _: Path) -> None:
    save_sweep(directory, sweep)
    show_sweep(Screen(), directory, sweep)
