"""`layerscope.compare`: two profiles, what grew and what shrank, and why."""

from pathlib import Path

from layerscope.base.errors import UserError
from layerscope.compare import SavedProfile, compare_profiles, read_profile
from layerscope.report.comparison import ComparisonReport
from layerscope.report.profile.records import comparable
from layerscope.report.profile.report import ProfileReport


def compare(a: ProfileReport | str | Path, b: ProfileReport | str | Path) -> ComparisonReport:
    """Compare two profiles: every difference by layer and quantity, in reasons that sum to it.

    Networks, settings, devices and versions of torch may differ. Layers are matched by their paths.

    Args:
        a, b: what `layerscope.profile` returned, a saved profile.json, or the folder of one.

    Raises:
        UserError: it is none of these, or was saved by another version.
    """
    return ComparisonReport(compare_profiles(_side("a", a), _side("b", b)))


def _side(name: str, given: object) -> SavedProfile:
    if isinstance(given, ProfileReport):
        return comparable(given.profile, "not saved")
    if isinstance(given, str | Path):
        return read_profile(profile_file(Path(given)), name)
    raise UserError(
        f"{name} is a {type(given).__name__}: give what layerscope.profile returns, or a saved "
        "profile.json"
    )


def profile_file(path: Path) -> Path:
    """Return the profile.json of a folder; another path as it is."""
    return path / "profile.json" if path.is_dir() else path
