"""The layers of a network and what they compute, per image: layers.json, layers.csv, the screen."""

from dataclasses import asdict
from pathlib import Path

from layerscope.base.files import write_json
from layerscope.base.formatting import shape_text
from layerscope.reconcile.layer_table import LayerRow, LayerTable
from layerscope.report.document import Column, Sum, Table
from layerscope.report.tables import write_table
from layerscope.report.terminal import Screen

FORMAT = 2
_COLUMNS = (
    Column("", "layer"),
    Column("", "type", rank=3),
    Column("", "output", rank=2),
    Column("", "parameters", "count"),
    Column("", "MACs", "count"),
    Column("", "fvcore", "count", rank=1),
)


def save_layer_table(directory: Path, table: LayerTable) -> None:
    """Write layers.json and layers.csv."""
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
    csv_rows = [
        {**record, "output_shape": shape_text(record["output_shape"])} for record in records
    ]
    write_table(directory / "layers.csv", tuple(LayerRow.__dataclass_fields__), csv_rows)


def show_layer_table(screen: Screen, table: LayerTable) -> None:
    """Show MACs and fvcore's count beside each other, with a line that says how they differ."""
    rows = [
        (
            *(row.layer, row.type, shape_text(row.output_shape)),
            *(row.num_parameters, row.macs, row.fvcore_count),
        )
        for row in table.rows
    ]
    macs = Sum(table.macs, table.is_lower_bound)
    total = ("total", "", "", table.num_parameters, macs, table.fvcore_count)
    note = table.fvcore_note or (
        "MACs: multiply-accumulates of convolutions, linear layers and matrix products. fvcore, in "
        "eval mode: the same, and batch norm and average pooling."
    )
    screen.show(Table(_COLUMNS, tuple(rows), total, "layers, per image", note))
