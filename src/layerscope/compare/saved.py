"""A profile as profile.json holds it: the form in which profiles are compared."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layerscope.base.errors import UserError
from layerscope.measure.timing import Spread
from layerscope.reconcile.rows import EXACT_QUANTITIES, Reason, Row

FORMAT = 2  # of profile.json; changes when a key changes its meaning

# A profile of a network of ten thousand layers has less.
MAX_PROFILE_BYTES = 2**28

TEXTBOOK = "textbook"  # the instrument of the textbook's own figures

# The textbook's figures of a layer that are compared.
TEXTBOOK_QUANTITIES = (
    "num_parameters",
    "parameter_bytes",
    "buffer_bytes",
    "output_elements",
    "output_bytes",
    "macs",
    "forward_flops",
    "backward_flops",
)

RowKey = tuple[str, str, str]  # layer, quantity, instrument


@dataclass(frozen=True)
class SavedLayer:
    """The textbook's view of a layer, all its calls summed.

    Args:
        input_shapes, output_shapes: of the first call, with the batch.
        figures: by the names of TEXTBOOK_QUANTITIES; None is unknown.
    """

    layer: str
    type: str
    num_calls: int
    input_shapes: tuple[tuple[int, ...], ...]
    output_shapes: tuple[tuple[int, ...], ...]
    figures: Mapping[str, int | None]


@dataclass(frozen=True)
class SavedProfile:
    """The figures of a profile, of a file or of one that was just made.

    Args:
        source: the file's path or the network's name, for messages.
        batch_size: first dimension of the network's first input; None where there is none.
        element_size: bytes of one element in the textbook.
        layers: in order of their first call, without `total`.
        rows, totals: exact quantities only.
        peak_parts: the bytes alive at the predicted peak, by purpose.
        peak_bytes: measured, scratch included; None where it was not measured.
        seconds: by layer and quantity; the whole step is (`total`, `step_seconds`).
        torch_version: None for a file that does not say.
        machine: name and number of threads; None where the machine was not measured.
    """

    source: str
    settings: Mapping[str, Any]
    batch_size: int | None
    element_size: int
    layers: Mapping[str, SavedLayer]
    rows: Mapping[RowKey, Row]
    totals: Mapping[RowKey, Row]
    predicted_live_bytes: int | None
    peak_parts: Mapping[str, int]
    peak_bytes: int | None
    seconds: Mapping[tuple[str, str], Spread]
    torch_version: str | None
    machine: str | None

    def textbook_total(self, quantity: str) -> int | None:
        """Return the sum over all layers; None where a layer's figure is unknown."""
        figures = [layer.figures[quantity] for layer in self.layers.values()]
        return None if None in figures else sum(figure or 0 for figure in figures)


def read_profile(
    path: Path, key: str, again: str = "with the same profile command"
) -> SavedProfile:
    """Read a saved profile.json.

    Args:
        key: what the user gave the path for, for messages.
        again: how a new one is saved, should this one be of another version.

    Raises:
        UserError: it cannot be read, is no profile.json, or one of another version.
    """
    mend = "give a profile.json that a profile has saved"
    if path.exists() and not path.is_file():  # to open a pipe would wait for ever
        raise UserError(f"{key}={path} is no file: {mend}")
    try:
        with path.open("rb") as file:
            record = json.loads(file.read(MAX_PROFILE_BYTES + 1)[:MAX_PROFILE_BYTES])
    except OSError as error:
        raise UserError(f"{key}={path} cannot be read ({error.strerror}): {mend}") from error
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, or none that a profile is
        raise UserError(f"{key}={path} is no profile.json ({error}): {mend}") from error
    try:
        found = record["format"]
        if isinstance(found, int) and found != FORMAT:
            age = "an older" if found < FORMAT else "a newer"
            raise UserError(
                f"{key}={path} was saved by {age} version (format {found}, not {FORMAT}): save a "
                f"new one {again}, and give its profile.json"
            )
        return saved_profile(record, str(path))
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{key}={path} is no profile.json ({type(error).__name__} {error}): {mend}"
        ) from error


def saved_profile(record: Mapping[str, Any], source: str) -> SavedProfile:
    """Return the figures of a profile's record.

    Raises:
        KeyError, TypeError, AttributeError: it is no record of a profile.
    """
    settings, costs, peak = record["settings"], record["costs"], record["peak"]
    _check_settings(settings)
    shape = costs["input_shape"]
    machine = record["machine"] or {}
    return SavedProfile(
        source=source,
        settings=settings,
        batch_size=_count(shape[0]) if shape else None,
        element_size=_number(costs["element_size"]),
        layers={layer.layer: layer for layer in map(_layer, costs["layers"])},
        rows=_rows(record["rows"]),
        totals=_rows(record["totals"]),
        predicted_live_bytes=_count(peak["predicted_live_bytes"]),
        peak_parts={str(name): _number(value) for name, value in peak["parts"].items()},
        peak_bytes=_count(peak["measured_bytes"]),
        seconds=_seconds(record["time"]),
        torch_version=record.get("torch_version") or machine.get("torch_version"),
        machine=f"{machine['name']}, {machine['num_threads']} threads" if machine else None,
    )


def _check_settings(settings: Mapping[str, Any]) -> None:
    """Refuse settings that reports could not name."""
    if not isinstance(settings, dict):
        raise TypeError("settings")
    words = (settings["network"], settings["dtype"], settings["device"], *settings["freeze"])
    if not all(isinstance(word, str) for word in words):
        raise TypeError(f"{words} are no words")
    if not isinstance(settings["input_shape"], list | dict | str):
        raise TypeError("input_shape")


def _layer(record: Mapping[str, Any]) -> SavedLayer:
    return SavedLayer(
        layer=str(record["layer"]),
        type=str(record["type"]),
        num_calls=_number(record["num_calls"]),
        input_shapes=_shapes(record["input_shapes"]),
        output_shapes=_shapes(record["output_shapes"]),
        figures={name: _count(record[name]) for name in TEXTBOOK_QUANTITIES},
    )


def _shapes(shapes: Any) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(_number(size) for size in shape) for shape in shapes)


def _rows(records: Any) -> dict[RowKey, Row]:
    rows = (_row(record) for record in records if record["quantity"] in EXACT_QUANTITIES)
    return {(row.layer, row.quantity, row.instrument): row for row in rows}


def _row(record: Mapping[str, Any]) -> Row:
    reasons = (
        Reason(str(r["code"]), _number(r["amount"]), str(r["text"]), r.get("source"))
        for r in record["reasons"]
    )
    return Row(
        layer=str(record["layer"]),
        type=str(record["type"]),
        quantity=record["quantity"],
        instrument=str(record["instrument"]),
        theory=_count(record["theory"]),
        reasons=tuple(reasons),
        measured=_count(record["measured"]),
        theory_not_counted=_count(record["theory_not_counted"]),
        counted=bool(record["counted"]),
        lower_bound=bool(record.get("lower_bound", False)),
    )


def _seconds(time: Mapping[str, Any] | None) -> dict[tuple[str, str], Spread]:
    if time is None:
        return {}
    found = {("total", "step_seconds"): _spread(time["step_seconds"])}
    for layer in time["layers"]:
        for quantity in ("forward_seconds", "backward_seconds"):
            if layer[quantity] is not None:
                found[str(layer["layer"]), quantity] = _spread(layer[quantity])
    return found


def _spread(record: Mapping[str, Any]) -> Spread:
    values = [record[name] for name in ("median", "minimum", "maximum")]
    if not all(isinstance(value, int | float) for value in values):
        raise TypeError(f"{values} are no seconds")
    return Spread(*values)


def _count(value: Any) -> int | None:
    return None if value is None else _number(value)


def _number(value: Any) -> int:
    if not isinstance(value, int):
        raise TypeError(f"{value!r} is no count")
    return value
