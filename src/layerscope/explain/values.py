"""One number and every term that it is made of."""

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Position = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Origin:
    """How a factor comes from other numbers, where it is more than a number that was read.

    Args:
        text: in plain characters with one `{}` for each argument: `1/√({} + {})`, `e^({} − {})`.
        arguments: each (num_terms,), or () where all terms have the same.
    """

    text: str
    arguments: tuple[Floats, ...]


@dataclass(frozen=True, eq=False)
class Factor:
    """The same factor of many terms.

    Args:
        symbol: in LaTeX, without an index: `x`, `w`, `\\frac{\\partial L}{\\partial y}`.
        values: (num_terms,), or () where all terms have the same.
        places: (num_terms, num_dims), the index of each; None for what has no index, as 1/N.
        origin: None for a number as it was read.
    """

    symbol: str
    values: Floats
    places: Indices | None = None
    origin: Origin | None = None


@dataclass(frozen=True, eq=False)
class Terms:
    """Terms of one form, such as all products x·w of a convolution.

    Args:
        factors: at least one.
        num_terms: how many.
        is_padding: (num_terms,), which terms read padding instead of a value; None where none does.
    """

    factors: tuple[Factor, ...]
    num_terms: int
    is_padding: NDArray[np.bool_] | None = None

    @property
    def products(self) -> Floats:
        """(num_terms,), each the product of its factors."""
        products = np.ones(self.num_terms)
        for factor in self.factors:
            products = products * factor.values
        return products


@dataclass(frozen=True, eq=False)
class Value:
    """A number, explained.

    Args:
        name: `y[0,0,1,1]`, `dL/dx[...]`, `dL/dw[...]`, `dL/db[...]`, `mean[0]`, ...
        layer: its key; `loss` for what the loss computes.
        reduction: what becomes of the terms: their `sum`, or the `max` of them.
        groups: terms of one form each, in the order in which they are written.
        actual: what the network, or autograd, really made; None where neither shows it.
        dtype: of `actual`.
        note: one sentence that belongs to it, such as which position won.
    """

    name: str
    layer: str
    reduction: Literal["sum", "max"]
    groups: tuple[Terms, ...]
    actual: float | None
    dtype: torch.dtype = torch.float32
    note: str = ""
    computed: float = field(init=False)

    def __post_init__(self) -> None:
        products = self.products
        reduced = math.fsum(products) if self.reduction == "sum" else float(products.max())
        object.__setattr__(self, "computed", float(reduced))

    @property
    def num_terms(self) -> int:
        """How many terms all groups have."""
        return sum(group.num_terms for group in self.groups)

    @property
    def products(self) -> Floats:
        """The terms of all groups, in order."""
        return np.concatenate([group.products for group in self.groups] or [np.zeros(0)])

    @property
    def magnitude(self) -> float:
        """The sum of the terms' absolute values, by which rounding errors are measured."""
        return math.fsum(abs(self.products))

    @property
    def ulps(self) -> float | None:
        """The difference in units of the last place of `actual`, in its dtype; None without one,
        or where it is beyond what the dtype holds."""
        if self.actual is None or not math.isfinite(self.actual):
            return None
        return abs(self.computed - self.actual) / unit_in_last_place(self.actual, self.dtype)

    @property
    def cancels(self) -> bool:
        """Tell whether nothing is left of the terms but rounding: then ulp of the sum mean nothing.

        Each term is known to a unit of the network's dtype, independent of the others; what they
        are made of was added up in float32 at least, which moves all of them alike.
        """
        if self.reduction != "sum" or self.num_terms < 2:
            return False
        products, magnitude = self.products, self.magnitude
        apart = torch.finfo(self.dtype).eps * math.sqrt(math.fsum(products**2))
        alike = _ALIKE * summing_eps(self.dtype) * magnitude
        return magnitude > 0 and abs(self.computed) <= apart + alike

    def agrees(self, more_roundings: float = 0.0, least: float = 0.0) -> bool | None:
        """Tell whether computed and actual differ by rounding only; None without an actual value.

        At most 16 + √(number of terms) roundings of the sum of the terms' absolute values.

        Args:
            more_roundings: of what the terms are made of, such as large exponents.
            least: of the sum of the absolute values, where the terms are differences themselves.
        """
        if self.actual is None:
            return None
        if not math.isfinite(self.actual):
            return str(self.actual) == str(self.computed)
        information = torch.finfo(self.dtype)
        roundings = _ROUNDINGS + math.sqrt(self.num_terms) + more_roundings
        bound = roundings * information.eps * max(self.magnitude, least) + information.tiny
        return abs(self.computed - self.actual) <= bound


_ALIKE = 8
_ROUNDINGS = 16


def summing_eps(dtype: torch.dtype) -> float:
    """Return the eps of the dtype in which sums of this one are added up."""
    return torch.finfo(torch.float32 if dtype.itemsize < 4 else dtype).eps


def unit_in_last_place(value: float, dtype: torch.dtype) -> float:
    """The distance from |value| to the next larger number of this dtype."""
    information = torch.finfo(dtype)
    exponent = math.floor(math.log2(max(abs(value), information.tiny)))
    return 2.0**exponent * information.eps


def indexed(symbol: str, position: Position) -> str:
    """`y[0,0,1,1]`, as values are named."""
    return f"{symbol}[{','.join(map(str, position))}]"
