"""activation_memory.json and activation_memory.csv."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from layerscope.base.files import write_json
from layerscope.measure import ActivationRecord, LayerActivations
from layerscope.report.tables import parse_rows, write_table

JSON_FILE = "activation_memory.json"
COLUMNS = ("step", "layer", "num_calls", "output_bytes", "saved_bytes", "cumulative_saved_bytes")


class ActivationTable:
    """The first record as JSON, all of them as CSV, a row per step and layer.

    On a CUDA device the first record has no peak, so the first one that has it takes its place.
    """

    def __init__(self, directory: Path, precision: str) -> None:
        self._directory = directory
        self._path = directory / "activation_memory.csv"
        self._precision = precision
        self._rows: list[Mapping[str, Any]] = []
        self._has_peak = False

    def resume(self, step: int) -> None:
        """Keep the records of earlier steps that the directory already has."""
        if not self._path.is_file() or not (self._directory / JSON_FILE).is_file():
            return
        lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True)
        rows = parse_rows(COLUMNS, lines[1:])
        self._rows = [row for row in rows if int(row["step"]) < step]
        first = json.loads((self._directory / JSON_FILE).read_text(encoding="utf-8"))
        self._has_peak = bool(self._rows) and first["totals"]["peak_bytes"] is not None

    @property
    def has_records(self) -> bool:
        """Tell whether this run has a record so far."""
        return bool(self._rows)

    @property
    def has_peak(self) -> bool:
        """Tell whether the record in the JSON file has the allocator's peak."""
        return self._has_peak

    def add(self, step: int, batch_size: int | None, record: ActivationRecord) -> None:
        """Write both files.

        Args:
            step: counts training batches from 0.
            batch_size: of this rank; None if the batch does not tell it.
        """
        has_peak = record.peak_bytes is not None
        if not self._rows or (has_peak and not self._has_peak):
            self._write_json(step, batch_size, record)
            self._has_peak = has_peak
        self._rows += [{"step": step, **_columns(layer)} for layer in record.layers]
        write_table(self._path, COLUMNS, self._rows)

    def _write_json(self, step: int, batch_size: int | None, record: ActivationRecord) -> None:
        layers = [_columns(layer) for layer in record.layers]
        write_json(
            self._directory / JSON_FILE,
            {
                "step": step,
                "batch_size": batch_size,
                "precision": self._precision,
                "totals": {
                    "output_bytes": record.output_bytes,
                    "saved_bytes": record.saved_bytes,
                    "input_bytes": record.input_bytes,
                    "peak_bytes": record.peak_bytes,
                },
                "layers": layers,
            },
        )


def _columns(layer: LayerActivations) -> dict[str, Any]:
    return {name: getattr(layer, name) for name in COLUMNS[1:]}
