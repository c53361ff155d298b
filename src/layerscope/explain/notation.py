"""The letters of the general formulas, without what a layer's settings make drop out.

LaTeX that KaTeX, GitHub's Markdown and latex2mathml all understand: no starred operators, and no
backslash before punctuation, which Markdown would take away.
"""

from collections.abc import Sequence
from dataclasses import dataclass

DL_DY = r"\frac{\partial L}{\partial y}"
DL_DX = r"\frac{\partial L}{\partial x}"

_WINDOWS = {1: "j", 2: "ij", 3: "aij"}
_CELLS = {1: "v", 2: "uv", 3: "tuv"}
_COORDINATES = {1: "q", 2: "rq", 3: "erq"}
_SUFFIXES = {1: "w", 2: "hw", 3: "dhw"}
_SIZES = {1: "L", 2: "HW", 3: "DHW"}


@dataclass(frozen=True)
class Dimension:
    """A spatial dimension; a setting is empty where it drops out of the formula.

    Args:
        window: the index of the output.
        cell: the index in the kernel; empty in a kernel of one cell.
        coordinate: the index of the input.
        size: the letter of the sizes, H of H_in and H_out.
        num_windows: in a transposed convolution the windows are the inputs'.
        wrapped: whether padding repeats the input: a coordinate is then found by R.
    """

    window: str
    cell: str
    coordinate: str
    size: str
    num_windows: str
    kernel_size: str
    stride: str = ""
    padding: str = ""
    dilation: str = ""
    wrapped: bool = False

    @property
    def read(self) -> str:
        """What the window reads: `s i + d u - p`."""
        text = _times(self.stride, self.window)
        text += f" + {_times(self.dilation, self.cell)}" if self.cell else ""
        text += f" - {self.padding}" if self.padding else ""
        return f"R({text})" if self.wrapped else text

    @property
    def cell_index(self) -> str:
        """0 in a kernel of one cell."""
        return self.cell or "0"

    @property
    def sum_over_cells(self) -> str:
        """Empty in a kernel of one cell."""
        return summed(self.cell, self.kernel_size) if self.cell else ""

    @property
    def sum_over_windows(self) -> str:
        """Over all windows."""
        return summed(self.window, self.num_windows)

    @property
    def sum_over_readers(self) -> str:
        """Over the windows that read a coordinate, each with its cell that does so.

        Empty where it is always the one window at this coordinate.
        """
        if self.read == self.window:
            return ""
        reader = f"({self.window}, {self.cell})" if self.cell else self.window
        return rf"\sum_{{{reader} \mid {self.read} = {self.coordinate}}}"

    @property
    def reader(self) -> str:
        """The window's index under this sum."""
        return self.window if self.sum_over_readers else self.coordinate

    @property
    def reader_bounds(self) -> str:
        """Range of the indices of this sum; empty without one."""
        if not self.sum_over_readers:
            return ""
        cell = rf" for $0 \le {self.cell} \lt {self.kernel_size}$" if self.cell else ""
        bounds = rf"0 \le {self.window} \lt {self.num_windows}"
        if self.wrapped:
            return f"${bounds}${cell}"
        solved = self.coordinate
        solved += f" + {self.padding}" if self.padding else ""
        solved += f" - {_times(self.dilation, self.cell)}" if self.cell else ""
        if not self.stride:
            return rf"$0 \le {self.window} = {solved} \lt {self.num_windows}${cell}"
        return f"${self.window} = ({solved}) / {self.stride}$ is whole and ${bounds}${cell}"


Dimensions = tuple[Dimension, ...]


def window_dimensions(
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    *,
    wrapped: bool = False,
    transposed: bool = False,
) -> Dimensions:
    """Return the dimensions of a convolution or pooling with these settings.

    Args:
        transposed: an input's window are the outputs that it adds to.
    """
    dims = len(kernel_size)
    made, read = _WINDOWS[dims], _COORDINATES[dims]
    many = [cells > 1 for cells in kernel_size]
    columns = zip(
        read if transposed else made,
        [letter if several else "" for letter, several in zip(_CELLS[dims], many, strict=True)],
        made if transposed else read,
        _SIZES[dims],
        [sized(size, "in" if transposed else "out") for size in _SIZES[dims]],
        symbols("k", kernel_size),
        symbols("s", stride, 1),
        symbols("p", padding, 0),
        symbols("d", dilation, 1),
        strict=True,
    )
    return tuple(Dimension(*column, wrapped=wrapped) for column in columns)


def symbols(letter: str, numbers: Sequence[int], neutral: int | None = None) -> tuple[str, ...]:
    """`s` for each dimension, `s_h` and `s_w` where they differ; empty where all are neutral."""
    if all(number == neutral for number in numbers):
        return ("",) * len(numbers)
    if len(set(numbers)) == 1:
        return (letter,) * len(numbers)
    return tuple(f"{letter}_{suffix}" for suffix in _SUFFIXES[len(numbers)])


def _numbers(letter: str, numbers: Sequence[int], neutral: int | None = None) -> dict[str, int]:
    letters = symbols(letter, numbers, neutral)
    return {symbol: n for symbol, n in zip(letters, numbers, strict=True) if symbol}


def window_numbers(
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> str:
    """`Here $k = 3$, $p = 1$.`, of the symbols that `dimensions` uses."""
    numbers = {
        **_numbers("k", kernel_size),
        **_numbers("s", stride, 1),
        **_numbers("p", padding, 0),
        **_numbers("d", dilation, 1),
    }
    return "Here " + ", ".join(f"${symbol} = {number}$" for symbol, number in numbers.items()) + "."


def size_letters(dims: int) -> str:
    """H and W of an image."""
    return _SIZES[dims]


def output_letters(dims: int) -> str:
    """i and j of an image."""
    return _WINDOWS[dims]


def coordinate_letters(dims: int) -> str:
    """r and q of an image."""
    return _COORDINATES[dims]


def outputs(dims: Dimensions) -> tuple[str, ...]:
    """The output's spatial indices."""
    return tuple(dim.window for dim in dims)


def readers(dims: Dimensions) -> tuple[str, ...]:
    """The output's spatial indices under the sums over readers."""
    return tuple(dim.reader for dim in dims)


def reads(dims: Dimensions) -> tuple[str, ...]:
    """The input's spatial indices that a window reads."""
    return tuple(dim.read for dim in dims)


def cells(dims: Dimensions) -> tuple[str, ...]:
    """The kernel's indices."""
    return tuple(dim.cell_index for dim in dims)


def coordinates(dims: Dimensions) -> tuple[str, ...]:
    """The input's spatial indices."""
    return tuple(dim.coordinate for dim in dims)


def at(symbol: str, *indices: str) -> str:
    """`x_{n,c,i,j}`; the bare symbol without indices."""
    written = [index for index in indices if index]
    return f"{symbol}_{{{', '.join(written)}}}" if written else symbol


def gradient(symbol: str, *indices: str) -> str:
    """∂L over the symbol at these indices."""
    return rf"\frac{{\partial L}}{{\partial {at(symbol, *indices)}}}"


def summed(index: str, size: str, start: str = "0") -> str:
    """The sum sign, from start to size - 1."""
    return rf"\sum_{{{index}={start}}}^{{{size}-1}}"


def leading(shape: Sequence[int], dims: int) -> tuple[str, ...]:
    """The indices in front of `dims` others: n, or n_1, n_2; none of a single image."""
    count = len(shape) - dims
    return ("n",) if count == 1 else tuple(f"n_{number}" for number in range(1, count + 1))


def batch_sum(indices: Sequence[str]) -> str:
    """The sum signs over the leading indices."""
    return "".join(summed(index, index.replace("n", "N")) for index in indices)


def size_name(dim: Dimension, of: str) -> str:
    """H_in, H_out."""
    return sized(dim.size, of)


def sized(letter: str, of: str) -> str:
    """A size with a word as its index, upright: C_in."""
    return rf"{letter}_{{\text{{{of}}}}}"


def latex_number(value: float) -> str:
    """`0.01`, `10^{-5}`, `2.5 \\times 10^{-7}`."""
    digits, _, exponent = f"{value:g}".partition("e")
    if not exponent:
        return digits
    power = f"10^{{{int(exponent)}}}"
    return power if digits == "1" else rf"{digits} \times {power}"


def plain_number(value: float) -> str:
    """A setting with all its digits, in plain characters: `0.01`, `10^(−5)`, `6`."""
    digits, _, exponent = repr(float(value)).replace("-", "−").partition("e")
    digits = digits.removesuffix(".0")
    if not exponent:
        return digits
    power = f"10^({exponent.replace('−0', '−').removeprefix('+')})"
    return power if digits == "1" else f"{digits}·{power}"


def index_legend(**letters: str | Sequence[str]) -> str:
    """`Indices: $n$ image, $(i, j)$ output position.`, of letters by what they stand for.

    What has no letter, as the batch of a single image, is left out.
    """
    parts = [
        f"${_tuple(letter)}$ {name.replace('_', ' ')}"
        for name, letter in letters.items()
        if _tuple(letter)
    ]
    return f"Indices: {', '.join(parts)}."


def _tuple(letters: str | Sequence[str]) -> str:
    parts = [letter for letter in letters if letter not in ("", "0")]
    if isinstance(letters, str) or len(parts) < 2:
        return "".join(parts)
    return f"({', '.join(parts)})"


def spaced(*parts: str) -> str:
    """With a space between; empty ones left out."""
    return " ".join(part for part in parts if part)


def _times(factor: str, index: str) -> str:
    return f"{factor} {index}" if factor else index
