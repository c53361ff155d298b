"""Every number of a small network, as grids: to work out another position by hand."""

from collections.abc import Sequence
from html import escape

import numpy as np

from layerscope.explain.all_numbers import Numbers
from layerscope.explain.values import Floats
from layerscope.report.document.tables import pipes
from layerscope.report.explain.fields import grid_place
from layerscope.report.explain.numbers import DIGITS, short

_INTRO = (
    "The image, every layer's weights, what it returns and the gradient of that (a view has no "
    "numbers of its own): with these any other position can be worked out as above. "
    "`layer=`, `position=`, `input_position=` and `weight_position=` choose "
    "which one the program works out."
)


def numbers_section(numbers: Sequence[Numbers]) -> str:
    """Empty for a network that is too large."""
    if not numbers:
        return ""
    return "\n\n".join(["## All numbers", _INTRO, *map(_folded, numbers)])


def _folded(numbers: Numbers) -> str:
    shape = "×".join(map(str, numbers.array.shape))
    name = " ".join(escape(numbers.layer).split())
    of_image = f" of image {numbers.image}" if numbers.image is not None else ""
    what = f"{name}: {numbers.name}{of_image}" if name else f"The input: {numbers.name}{of_image}"
    start = numbers.image or 0
    grids = "\n\n".join(_grids(numbers.name, numbers.array, start))
    return f"<details><summary>{what}, {shape}</summary>\n\n{grids}\n\n</details>"


def _grids(name: str, array: Floats, image: int) -> list[str]:
    """One for each channel, or filter and channel.

    Args:
        image: the first index of the first number, where that is the image.
    """
    if array.ndim > 2 and array.shape[2:] == (1,) * (array.ndim - 2):
        ones = ",".join("0" * (array.ndim - 2))
        return [_table(rf"{name}\[·,·,{ones}\]", array.reshape(array.shape[:2]), image)]
    if array.ndim < 3:
        corner = rf"{name}\[·\]" if array.ndim == 1 else f"{name}{grid_place(())}"
        return [_table(corner, np.atleast_2d(array), image, array.ndim > 1)]
    return [
        _table(f"{name}{grid_place((lead[0] + image, *lead[1:]))}", array[lead], 0)
        for lead in np.ndindex(array.shape[:-2])
    ]


def _table(corner: str, matrix: Floats, first_row: int, has_rows: bool = True) -> str:
    titles = [(corner, True), *((str(column), True) for column in range(matrix.shape[1]))]
    rows = [
        [str(row) if has_rows else "", *(short(float(number), DIGITS + 1) for number in numbers)]
        for row, numbers in enumerate(matrix, first_row)
    ]
    return pipes(titles, rows)
