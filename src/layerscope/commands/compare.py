"""Compare two saved profiles: what grew, what shrank, and why."""

from functools import partial
from pathlib import Path

from layerscope.base.files import write_json
from layerscope.commands.runner import Job, Request
from layerscope.compare import SavedProfile, compare_profiles, read_profile
from layerscope.library.compare import profile_file
from layerscope.report.comparison import ComparisonReport
from layerscope.report.terminal import Screen
from layerscope.training.provenance import describe_environment


def check_comparison(request: Request) -> Job:
    """Read both profiles, and only then let anything be written.

    Raises:
        UserError: a file is wrong.
    """
    sides = [_side(key, getattr(request.config, key)) for key in ("a", "b")]
    return partial(_save, ComparisonReport(compare_profiles(*sides)), request.overrides)


def _side(key: str, path: str) -> SavedProfile:
    return read_profile(profile_file(Path(path)), key)


def _save(report: ComparisonReport, overrides: tuple[str, ...], directory: Path) -> None:
    screen = Screen()
    write_json(directory / "run.json", describe_environment(overrides))
    report.save(directory)
    report.show(screen=screen)
    screen.say(f"all files: {directory}")
