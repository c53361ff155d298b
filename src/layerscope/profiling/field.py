"""torchvision's convolutional classifiers, profiled one after the other."""

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torchvision.models as zoo
from torch import nn

from layerscope.errors import UserError
from layerscope.reconcile import Settings, profile_network
from layerscope.report.terminal import Screen

BATCH_SIZE = 2
# Their work is products of activations, for which theory has no formula.
_NOT_CONVOLUTIONAL = ("vit_", "swin_", "maxvit_")

COLUMNS = (
    *("network", "crop", "layers", "rows", "unexplained"),
    *("live peak", "difference", "seconds"),
)


@dataclass(frozen=True)
class FieldRow:
    """One classifier in train mode, at the crop size of its default weights.

    Args:
        num_rows: comparisons of an exact quantity, totals included.
        num_unexplained: of these, those where something is left over or unknown.
        live_bytes: predicted peak without the library's scratch.
        live_difference: of the measured one from it.
    """

    name: str
    crop_size: int
    num_layers: int
    num_rows: int
    num_unexplained: int
    live_bytes: int
    live_difference: int
    seconds: float


def field_names() -> tuple[str, ...]:
    """Of all convolutional classifiers."""
    names = zoo.list_models(module=zoo)
    return tuple(name for name in names if not name.startswith(_NOT_CONVOLUTIONAL))


def crop_size(name: str) -> int:
    """Of its default weights, which are not fetched."""
    weights: Any = zoo.get_model_weights(name)
    return weights.DEFAULT.transforms.keywords["crop_size"]


def build(name: str) -> nn.Module:
    """With random weights, in train mode."""
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return zoo.get_model(name, weights=None, **options).train()


def field_row(name: str, size: int | None = None) -> FieldRow:
    """Profile one.

    Args:
        size: of the image; by default the crop size of the network's default weights.
    """
    begin = time.perf_counter()
    size = crop_size(name) if size is None else size
    profile = profile_network(build(name), Settings(name, (BATCH_SIZE, 3, size, size)))
    rows = [row for row in (*profile.rows, *profile.totals) if row.is_exact]
    live = profile.peak.predicted_live_bytes
    return FieldRow(
        name=name,
        crop_size=size,
        num_layers=len(profile.costs.layers),
        num_rows=len(rows),
        num_unexplained=sum(row.unexplained != 0 for row in rows),
        live_bytes=live,
        live_difference=(profile.peak.measured_live_bytes or 0) - live,
        seconds=time.perf_counter() - begin,
    )


def run_field(names: tuple[str, ...], size: int | None, say: Callable[[str], None]) -> int:
    """Print a line per network and the sum; the exit code is 1 if anything is unexplained.

    Raises:
        UserError: a name that is no classifier of torchvision's.
    """
    known = field_names()
    for name in names:
        if name not in known:
            raise UserError(f"{name} is no convolutional classifier of torchvision's")
    rows: list[FieldRow] = []
    for name in names or known:
        rows.append(field_row(name, size))
        say(_line(rows[-1]))
        gc.collect()  # a network is full of cycles, and the next one needs the memory
    _show(rows)
    return 1 if any(row.num_unexplained for row in rows) else 0


def _line(row: FieldRow) -> str:
    return f"{row.name}: {row.num_unexplained} of {row.num_rows} unexplained, {row.seconds:.1f} s"


def _show(rows: list[FieldRow]) -> None:
    cells = [
        (
            row.name,
            str(row.crop_size),
            str(row.num_layers),
            f"{row.num_rows:,}",
            str(row.num_unexplained),
            f"{row.live_bytes:,} B",
            f"{row.live_difference:+,} B",
            f"{row.seconds:.1f}",
        )
        for row in rows
    ]
    title = f"torchvision's convolutional classifiers, train mode, batch {BATCH_SIZE}, float32"
    screen = Screen()
    screen.table(title, COLUMNS, cells)
    num_rows, left = sum(r.num_rows for r in rows), sum(r.num_unexplained for r in rows)
    screen.say(f"{len(rows)} networks, {num_rows:,} comparisons, {left} unexplained")
