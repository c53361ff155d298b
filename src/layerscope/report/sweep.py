"""One table of a finished sweep: what each job was, what it cost, how good it got."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from layerscope.base.errors import RunFailed
from layerscope.base.files import write_json
from layerscope.report.document import Column, Table
from layerscope.report.tables import write_table
from layerscope.report.terminal import Screen

FAILURE_FILE = "failure.json"
# Keys that say how a command goes on after a stop, and nothing about the job.
_OF_GOING_ON = ("resume=", "allow_changes=")
COLUMNS = (
    "job",
    "overrides",
    "num_parameters",
    "macs",
    "saved_bytes",
    "val/acc",
    "test/acc",
    "seconds",
    "status",
    "reason",
)


def save_failure(job: Path, overrides: Sequence[str], reason: str) -> None:
    """Write what a job that did not finish leaves for the sweep's table."""
    write_json(job / FAILURE_FILE, {"overrides": list(overrides), "reason": reason})


def forget_failure(job: Path) -> None:
    """Remove the record of an earlier try of a job that has now finished."""
    (job / FAILURE_FILE).unlink(missing_ok=True)


def finish_sweep(directory: Path) -> int:
    """Write sweep.json and sweep.csv, show them; RunFailed.exit_code if a job failed."""
    records = sorted((_record(job) for job in _job_folders(directory)), key=_best_first)
    write_json(directory / "sweep.json", records)
    rows = [{**record, "overrides": " ".join(record["overrides"])} for record in records]
    write_table(directory / "sweep.csv", COLUMNS, rows)
    _show(directory, records)
    failed = any(record["status"] == "failed" for record in records)
    return RunFailed.exit_code if failed else 0


def _job_folders(directory: Path) -> list[Path]:
    """Return those that have begun, wherever hydra.sweep.subdir puts them."""
    begun = {path.parent for name in ("run.json", FAILURE_FILE) for path in directory.rglob(name)}
    return sorted(begun, key=lambda folder: (len(folder.name), folder.name))


def _record(job: Path) -> dict[str, Any]:
    record = _whole_record(job)
    overrides = [o for o in record["overrides"] if not o.lstrip("+").startswith(_OF_GOING_ON)]
    return record | {"overrides": overrides}


def _whole_record(job: Path) -> dict[str, Any]:
    record = dict.fromkeys(COLUMNS) | {"job": job.name, "overrides": [], "status": "failed"}
    if (job / FAILURE_FILE).exists():
        return record | _read(job / FAILURE_FILE)
    if not (job / "results.json").exists():
        return record | {"reason": "ended before its results were written"}
    results = _read(job / "results.json")
    layers = _read(job / "layers.json")
    memory = _read(job / "activation_memory.json")
    return record | {
        "overrides": _read(job / "run.json")["command"][1:],
        "num_parameters": layers["totals"]["num_parameters"],
        "macs": layers["totals"]["macs"],
        "saved_bytes": memory["totals"]["saved_bytes"],
        "val/acc": results["val/acc"],
        "test/acc": results["test/acc"],
        "seconds": results["train_seconds"],
        "status": "finished",
    }


def _best_first(record: dict[str, Any]) -> tuple[bool, float, int]:
    accuracy = record["val/acc"]
    return (accuracy is None, -(accuracy or 0.0), record["job"])


_SHOWN = (
    Column("", "overrides"),
    Column("", "parameters", "count", rank=3),
    Column("", "MACs/image", "count", rank=2),
    Column("", "saved", "bytes", brief=True, rank=1),
    Column("", "val acc", "percent"),
    Column("", "test acc", "percent"),
    Column("", "seconds", "number", rank=4),
)


def _show(directory: Path, records: list[dict[str, Any]]) -> None:
    shared = set.intersection(*(set(record["overrides"]) for record in records))
    rows = [
        (
            " ".join(o for o in record["overrides"] if o not in shared) or "-",
            *(record[name] for name in ("num_parameters", "macs", "saved_bytes")),
            *(record["val/acc"], record["test/acc"], f"{record['seconds']:.1f}"),
        )
        for record in records
        if record["status"] == "finished"
    ]
    screen = Screen()
    screen.show(Table(_SHOWN, tuple(rows), title="sweep, best validation accuracy first"))
    for record in records:
        if record["status"] == "failed":
            screen.say(f"failed: job {record['job']}, {record['reason']}")
    screen.say(f"saved: {directory / 'sweep.json'}, sweep.csv")


def _read(path: Path) -> Any:
    return json.loads(path.read_text())
