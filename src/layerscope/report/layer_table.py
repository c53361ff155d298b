"""The layers of a network and what they compute, per image: layers.json, layers.csv, the screen."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import nn

from layerscope.base.files import write_json
from layerscope.base.formatting import count_exact
from layerscope.layers import preserve_state
from layerscope.measure import FvcoreCounts, FvcoreFailed, Step, fvcore_counts
from layerscope.networks.layer_calls import blank_image, network_calls
from layerscope.report.tables import write_table
from layerscope.report.terminal import Screen
from layerscope.theory import LayerCost, cost_table, textbook_units

FORMAT = 2
NOT_RUN = "(not run in eval mode)"


@dataclass(frozen=True)
class LayerRow:
    """A layer; every count is for one image. None is unknown."""

    layer: str
    type: str
    output_shape: tuple[int, ...]  # without the batch
    num_calls: int
    num_parameters: int
    macs: int | None  # multiply-accumulates of convolutions, linear layers and matrix products
    fvcore_count: int | None  # fvcore's own: these, batch norm and average pooling


@dataclass(frozen=True)
class LayerTable:
    """All layers in order of their first call."""

    rows: tuple[LayerRow, ...]
    fvcore_mode: str | None
    fvcore_note: str | None  # why fvcore's counts are unknown

    @property
    def num_parameters(self) -> int:
        """Shared ones once."""
        return sum(row.num_parameters for row in self.rows)

    @property
    def macs(self) -> int:
        """Sum over the layers whose MACs are known."""
        return sum(row.macs or 0 for row in self.rows)

    @property
    def is_lower_bound(self) -> bool:
        """True where the MACs of a layer are unknown."""
        return any(row.macs is None for row in self.rows)

    @property
    def fvcore_count(self) -> int | None:
        """None where fvcore could not count."""
        return _sum([row.fvcore_count for row in self.rows])


def layer_table(network: nn.Module, input_shape: tuple[int, int, int]) -> LayerTable:
    """Describe one image (C, H, W) in eval mode: batch norm cannot train on a single value."""
    with preserve_state(network):
        network.eval()
        calls = network_calls(network, (1, *input_shape))
        counts, note = _fvcore(network, input_shape)
    costs = cost_table(calls.run, textbook_units(calls.run), element_size=4)
    rows = tuple(_row(cost, counts) for cost in costs.layers)
    present = sum(parameter.numel() for parameter in network.parameters())
    idle = present - sum(row.num_parameters for row in rows)
    if idle:  # of an auxiliary head, say: there, and trained, but no part of an evaluation
        rows += (LayerRow(NOT_RUN, "none", (), 0, idle, 0, None if counts is None else 0),)
    return LayerTable(rows, counts.mode if counts else None, note)


def save_layer_table(directory: Path, table: LayerTable) -> None:
    """layers.json and layers.csv."""
    records = [asdict(row) for row in table.rows]
    write_json(
        directory / "layers.json",
        {
            "format": FORMAT,
            "per": "image",
            "fvcore": {"mode": table.fvcore_mode, "batch_size": 1, "note": table.fvcore_note},
            "layers": records,
            "totals": {
                "num_parameters": table.num_parameters,
                "macs": table.macs,
                "lower_bound": table.is_lower_bound,
                "fvcore_count": table.fvcore_count,
            },
        },
    )
    csv_rows = [{**record, "output_shape": _shape(record["output_shape"])} for record in records]
    write_table(directory / "layers.csv", tuple(LayerRow.__dataclass_fields__), csv_rows)


def show_layer_table(screen: Screen, table: LayerTable) -> None:
    """MACs and fvcore's count beside each other, with a line that says how they differ."""
    rows = [
        (
            row.layer,
            row.type,
            _shape(row.output_shape),
            f"{row.num_parameters:,}",
            count_exact(row.macs),
            count_exact(row.fvcore_count),
        )
        for row in table.rows
    ]
    totals = (
        "total",
        "",
        "",
        f"{table.num_parameters:,}",
        f"{'>= ' if table.is_lower_bound else ''}{table.macs:,}",
        count_exact(table.fvcore_count),
    )
    screen.table(
        "layers, per image",
        ("layer", "type", "output", "parameters", "MACs", "fvcore"),
        rows,
        num_text_columns=3,
        total=totals,
    )
    screen.say(
        table.fvcore_note
        or "MACs: multiply-accumulates of convolutions, linear layers and matrix products. fvcore, "
        "in eval mode: the same, and batch norm and average pooling."
    )


def _row(cost: LayerCost, counts: FvcoreCounts | None) -> LayerRow:
    return LayerRow(
        layer=cost.layer,
        type=cost.type,
        output_shape=tuple(cost.output_shapes[0][1:]),
        num_calls=cost.num_calls,
        num_parameters=cost.num_parameters,
        macs=cost.macs,
        fvcore_count=None if counts is None else counts.layers.get(cost.layer, 0),
    )


def _fvcore(
    network: nn.Module, input_shape: tuple[int, int, int]
) -> tuple[FvcoreCounts | None, str | None]:
    try:
        image = blank_image(network, (1, *input_shape))
        return fvcore_counts(Step(network, (image,))), None
    except FvcoreFailed as error:
        return None, f"fvcore could not count this network: {error}"


def _sum(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _shape(sizes: Sequence[int]) -> str:
    return "x".join(str(size) for size in sizes)
