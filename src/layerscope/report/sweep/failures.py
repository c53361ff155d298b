"""What a job of a sweep leaves when it fails, for the sweep's report."""

from collections.abc import Sequence
from pathlib import Path

from layerscope.base.files import write_json

FAILURE_FILE = "failure.json"


def save_failure(job: Path, overrides: Sequence[str], reason: str) -> None:
    """Write why a job did not finish."""
    write_json(job / FAILURE_FILE, {"overrides": list(overrides), "reason": reason})


def forget_failure(job: Path) -> None:
    """Remove the record of an earlier try of a job that has now finished."""
    (job / FAILURE_FILE).unlink(missing_ok=True)
