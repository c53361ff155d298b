"""Compare two saved profiles: what grew, what shrank, and why."""

from functools import partial
from pathlib import Path

from layerscope.base.files import write_json
from layerscope.commands.runner import Command, Job, Request
from layerscope.compare import SavedProfile, compare_profiles, read_profile
from layerscope.config.problems import parse
from layerscope.config.schema import CompareConfig
from layerscope.library.compare import profile_file
from layerscope.report.comparison import ComparisonReport
from layerscope.report.terminal import Screen
from layerscope.training.provenance import describe_environment

_DOES = "Say what grew and what shrank between two saved profiles, each in reasons that sum to it."


def command(config_dir: Path) -> Command:
    """Return what `layerscope compare` does.

    Args:
        config_dir: of the configurations' files.
    """
    return Command("compare", config_dir, CompareConfig, _DOES, check_comparison)


def check_comparison(request: Request) -> Job:
    """Read both profiles, and only then let anything be written.

    Raises:
        UserError: a key or a file is wrong.
    """
    config = parse(CompareConfig, {key: request.values[key] for key in CompareConfig.model_fields})
    sides = [_side("a", config.a), _side("b", config.b)]
    return partial(_save, ComparisonReport(compare_profiles(*sides)), request.overrides)


def _side(key: str, path: str) -> SavedProfile:
    return read_profile(profile_file(Path(path)), key)


def _save(report: ComparisonReport, overrides: tuple[str, ...], directory: Path) -> None:
    screen = Screen()
    write_json(directory / "run.json", describe_environment(overrides))
    report.save(directory)
    report.show(screen=screen)
    screen.say(f"all files: {directory}")
