"""Parts that every explanation is put together from: places, factors and values."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from layerscope.explain.operation import Captured
from layerscope.explain.values import Factor, Floats, Indices, Origin, Position, Terms, Value


def grid(*indices: Indices) -> Indices:
    """(num_rows, num_indices), every combination; the last index runs fastest."""
    columns = np.meshgrid(*indices, indexing="ij")
    return np.stack([column.reshape(-1) for column in columns], axis=-1)


def places(*parts: int | Indices) -> Indices:
    """(num_rows, num_dims), of single indices and of (num_rows,) or (num_rows, k) columns."""
    num_rows = max((len(part) for part in parts if isinstance(part, np.ndarray)), default=1)
    columns = [
        _columns(part) if isinstance(part, np.ndarray) else np.full((num_rows, 1), part)
        for part in parts
    ]
    return np.concatenate(columns, axis=1) if columns else np.zeros((1, 0), dtype=np.int64)


def _columns(part: Indices) -> Indices:
    return part if part.ndim == 2 else part[:, None]


def every_place(shape: tuple[int, ...]) -> Indices:
    """(num_elements, num_dims), in row-major order."""
    return grid(*map(np.arange, shape)) if shape else places()


def gathered(
    symbol: str, array: Floats, where: Indices, present: NDArray[np.bool_] | None = None
) -> Factor:
    """An array's numbers at these places; 0 where `present` is False, which is padding."""
    if present is None:
        return Factor(symbol, array[tuple(where.T)], where)
    values = np.zeros(len(where))
    values[present] = array[tuple(where[present].T)]
    return Factor(symbol, values, where)


def single(symbol: str, array: Floats, position: Position) -> Factor:
    """One number of an array, the only one or the same in all terms."""
    return Factor(symbol, array[position].reshape(1), np.array([position], dtype=np.int64))


def constant(symbol: str, value: float) -> Factor:
    """Return a number without an index, the same in all terms."""
    return Factor(symbol, np.asarray(value, dtype=np.float64))


def derived(factor: Factor, text: str, *arguments: Floats | float) -> Factor:
    """Return the same factor, with how it comes from other numbers.

    Args:
        text: see Origin.
        arguments: each (num_terms,), or one number where all terms have the same.
    """
    columns = tuple(np.asarray(argument, dtype=np.float64) for argument in arguments)
    return replace(factor, origin=Origin(text, columns))


def derived_constant(symbol: str, value: float, text: str, *arguments: float) -> Factor:
    """Return a number without an index, with how it comes from other numbers."""
    return derived(constant(symbol, value), text, *arguments)


def one_over(symbol: str, count: int) -> Factor:
    """Return 1 over how many there are."""
    return derived_constant(symbol, 1 / count, f"1/{count}")


def product(*factors: Factor, is_padding: NDArray[np.bool_] | None = None) -> Terms:
    """Return as many terms as the first factor has values.

    Another factor of one value that has a place is the same in all terms. Between others, a sum
    that a factor comes from stands in brackets.
    """
    num_terms = factors[0].values.size
    spread = tuple(_spread(factor, num_terms) for factor in factors)
    written = tuple(map(_bracketed, spread)) if len(spread) > 1 else spread
    return Terms(written, num_terms, is_padding)


def _bracketed(factor: Factor) -> Factor:
    if factor.origin is None or not _is_sum(factor.origin.text):
        return factor
    return replace(factor, origin=replace(factor.origin, text=f"({factor.origin.text})"))


def _is_sum(text: str) -> bool:
    """Tell whether a sign stands outside of all brackets."""
    depth = 0
    for character in text:
        depth += (character in "([") - (character in ")]")
        if depth == 0 and character in "+−":
            return True
    return False


def _spread(factor: Factor, num_terms: int) -> Factor:
    if factor.places is None or len(factor.places) == num_terms:
        return factor
    where = np.repeat(factor.places, num_terms, axis=0)
    origin = factor.origin
    if origin is not None:
        arguments = tuple(argument.reshape(()) for argument in origin.arguments)
        origin = replace(origin, arguments=arguments)
    return Factor(factor.symbol, np.repeat(factor.values, num_terms), where, origin)


def sum_value(
    captured: Captured,
    name: str,
    groups: tuple[Terms, ...],
    actual: float | None = None,
    note: str = "",
) -> Value:
    """Return a sum of terms in a layer."""
    return Value(name, captured.operation.key, "sum", groups, actual, captured.dtype, note)
