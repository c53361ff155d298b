"""One number and every term that it is made of."""

import math
from collections.abc import Iterator, Mapping
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
        """Of all groups."""
        return sum(group.num_terms for group in self.groups)

    @property
    def products(self) -> Floats:
        """Of all groups, in order."""
        return np.concatenate([group.products for group in self.groups] or [np.zeros(0)])

    @property
    def magnitude(self) -> float:
        """The sum of the terms' absolute values, by which rounding errors are measured."""
        return math.fsum(abs(self.products))

    @property
    def ulps(self) -> float | None:
        """The difference in units of the last place of `actual`, in its dtype; None without one."""
        if self.actual is None:
            return None
        return abs(self.computed - self.actual) / unit_in_last_place(self.actual, self.dtype)


def unit_in_last_place(value: float, dtype: torch.dtype) -> float:
    """The distance from |value| to the next larger number of this dtype."""
    information = torch.finfo(dtype)
    exponent = math.floor(math.log2(max(abs(value), information.tiny)))
    return 2.0**exponent * information.eps


def indexed(symbol: str, position: Position) -> str:
    """`y[0,0,1,1]`, as values are named."""
    return f"{symbol}[{','.join(map(str, position))}]"


def iterate_terms(value: Value) -> Iterator[Mapping[str, object]]:
    """Every term as explain.json has it."""
    for group in value.groups:
        columns = [np.broadcast_to(f.values, group.num_terms).tolist() for f in group.factors]
        for factors, product in zip(zip(*columns, strict=True), group.products, strict=True):
            yield {"factors": list(factors), "product": float(product)}
