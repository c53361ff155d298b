"""Pictures of a run, the same bytes for the same numbers."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Literal
from warnings import catch_warnings, filterwarnings

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from layerscope.base.files import write_atomically

TRAIN_COLOUR, VAL_COLOUR = "#1f77b4", "#d95f02"


def save_curves(path: Path, rows: Sequence[dict[str, str]]) -> None:
    """Loss and accuracy by epoch, from the rows of metrics.csv."""
    epochs = [int(row["epoch"]) + 1 for row in rows]
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    for axes, quantity, unit in zip(
        figure.subplots(1, 2), ("loss", "acc"), ("mean loss", "accuracy, %"), strict=True
    ):
        scale = 100 if quantity == "acc" else 1
        for split, colour in (("train", TRAIN_COLOUR), ("val", VAL_COLOUR)):
            values = [row[f"{split}/{quantity}"] for row in rows]
            shown = [scale * float(value) if value else np.nan for value in values]
            axes.plot(epochs, shown, color=colour, marker="o", markersize=3, label=split)
        axes.set_xlabel("epoch")
        axes.set_ylabel(unit)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend()
    save_svg(path, figure)


_MOST_NAMED = 40  # classes whose names and counts can be read


def save_confusion(path: Path, counts: NDArray[np.int64], names: Sequence[str]) -> None:
    """Rows are true classes, columns predicted ones; each cell its count and share of the row.

    Of more than 40 classes, colours alone: the counts stand in confusion.csv.
    """
    has_room = len(names) <= _MOST_NAMED
    size = max(4.0, 0.62 * len(names) + 2.2) if has_room else 12.0
    figure = Figure(figsize=(size, size), layout="constrained")
    axes = figure.subplots()
    totals = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    shares = counts / totals
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        if count and has_room:
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, f"{count}", ha="center", va="center", color=colour, fontsize=8)
    if has_room:
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right", parse_math=False)
        axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    save_svg(path, figure, text="path" if all(map(str.isascii, names)) else "none")


def save_svg(path: Path, figure: Figure, text: Literal["path", "none"] = "path") -> None:
    """Write without a date and with fixed identifiers, which matplotlib draws at random.

    Args:
        text: as paths, or as text for the viewer, which has more fonts than matplotlib.
    """
    buffer = BytesIO()
    with mpl.rc_context({"svg.hashsalt": "layerscope", "svg.fonttype": text}), catch_warnings():
        filterwarnings("ignore", message="Glyph .* missing from font")  # of a class's name
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    write_atomically(path, lambda file: file.write(buffer.getvalue()))


def save_examples(
    path: Path,
    images: Sequence[NDArray[np.uint8]],
    captions: Sequence[tuple[str, str]],
    columns: int = 8,
) -> None:
    """A sheet of images (N, H, W, C), each with two lines below it, as PNG."""
    side, margin, text_height = 96, 6, 26
    rows = -(-len(images) // columns)
    sheet = Image.new(
        "RGB",
        (columns * (side + margin) + margin, max(1, rows) * (side + text_height + margin) + margin),
        "white",
    )
    draw = ImageDraw.Draw(sheet)
    for number, (pixels, lines) in enumerate(zip(images, captions, strict=True)):
        left = margin + (number % columns) * (side + margin)
        top = margin + (number // columns) * (side + text_height + margin)
        picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).convert("RGB")
        sheet.paste(picture.resize((side, side), Image.Resampling.NEAREST), (left, top))
        for line, text in enumerate(lines):
            draw.text((left, top + side + 1 + 12 * line), text[:16], fill="black")
    if not len(images):
        draw.text((margin, margin), "nothing was misclassified", fill="black")
    write_atomically(path, lambda file: sheet.save(file, format="PNG"))
