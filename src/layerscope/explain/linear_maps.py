"""Functions that are linear in each tensor that they read: one description, all values.

Each number of the output is a sum of products: y[n,o,i,j] = Σ x[n,c,i+u,j+v]·w[o,c,u,v]. What goes
with what is told axis by axis: an axis says which index of the output, of x and of w meet along
some dimensions. With the output's position given, the rows of all axes are the terms of one y, a
row of the matrix; with the position of x or w given, they are those of its gradient, a row of the
transpose.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from layerscope.dry_run import Shape
from layerscope.explain import notation
from layerscope.explain.explainer import Explainer, Formulas, GeneralFormula, where_used
from layerscope.explain.factors import gathered, grid, product, sum_value
from layerscope.explain.notation import DL_DY
from layerscope.explain.operation import Captured, Operation
from layerscope.explain.values import Factor, Floats, Indices, Position, Terms, Value, indexed


@dataclass(frozen=True, eq=False)
class Rows:
    """The part of an axis in which one tensor has a given index.

    Args:
        index: (num_rows, num_dims) of each tensor along the axis's dimensions of it.
        padding: (num_rows,), which rows read padding in place of x; None where none does.
        share: (num_rows,), by which each is multiplied; None for 1.
    """

    index: Mapping[str, Indices]
    padding: NDArray[np.bool_] | None = None
    share: Floats | None = None

    def __len__(self) -> int:
        return len(next(iter(self.index.values())))


class Axis(Protocol):
    """Which indices of the tensors go together."""

    @property
    def dims(self) -> Mapping[str, tuple[int, ...]]:
        """The dimensions of each tensor that it is about."""
        ...

    def rows(self, tensor: str, position: Position) -> Rows:
        """Return the rows in which a tensor has this position; all if the axis is not in it."""
        ...


@dataclass(frozen=True)
class Along:
    """All tensors have the same index, as channels of x and y do.

    Args:
        along: the dimension of each tensor.
    """

    size: int
    along: Mapping[str, int]

    @property
    def dims(self) -> Mapping[str, tuple[int, ...]]:
        """One of each tensor."""
        return {tensor: (dim,) for tensor, dim in self.along.items()}

    def rows(self, tensor: str, position: Position) -> Rows:
        """One, or all."""
        dim = self.along.get(tensor)
        index = np.arange(self.size) if dim is None else np.array([position[dim]])
        return Rows(dict.fromkeys(self.along, index[:, None]))


@dataclass(frozen=True, eq=False)
class ListedRows:
    """Rows written out.

    Args:
        index: (num_rows, num_dims) of each tensor.
        padding, share: as of Rows.
    """

    dims: Mapping[str, tuple[int, ...]]
    index: Mapping[str, Indices]
    padding: NDArray[np.bool_] | None = None
    share: Floats | None = None

    def rows(self, tensor: str, position: Position) -> Rows:
        """Those with this index; of x, those that read it."""
        chosen = np.ones(len(next(iter(self.index.values()))), dtype=bool)
        if tensor in self.dims:
            wanted = [position[dim] for dim in self.dims[tensor]]
            chosen &= np.all(self.index[tensor] == wanted, axis=1)
            if self.padding is not None and tensor == "x":
                chosen &= ~self.padding
        return Rows(
            {name: index[chosen] for name, index in self.index.items()},
            None if self.padding is None else self.padding[chosen],
            None if self.share is None else self.share[chosen],
        )


@dataclass(frozen=True)
class RowMajor:
    """Elements of x and y in row-major order, whatever the shapes."""

    shapes: Mapping[str, Shape]

    @property
    def dims(self) -> Mapping[str, tuple[int, ...]]:
        """All."""
        return {tensor: tuple(range(len(shape))) for tensor, shape in self.shapes.items()}

    def rows(self, tensor: str, position: Position) -> Rows:
        """One."""
        rank = np.ravel_multi_index(position, self.shapes[tensor]) if position else 0
        return Rows(
            {
                name: np.array([np.unravel_index(rank, shape)], dtype=np.int64).reshape(1, -1)
                for name, shape in self.shapes.items()
            }
        )


@dataclass(frozen=True, eq=False)
class Selected:
    """Terms of one number.

    Args:
        places: (num_terms, num_dims) of y and of each factor but the one that is given.
        padding: (num_terms,); None where no term reads padding.
        shares: (num_terms,) of each axis that has them.
    """

    places: Mapping[str, Indices]
    padding: NDArray[np.bool_] | None
    shares: tuple[Floats, ...]


ScaleFactor = Callable[[Captured, Selected], Factor]


@dataclass(frozen=True)
class Part:
    """Products that are added up.

    Args:
        factors: the tensors that are multiplied; none for a number alone.
        axes: in the order in which their sums stand.
        scale: one more factor, such as 1/m.
    """

    factors: tuple[str, ...]
    axes: tuple[Axis, ...]
    scale: ScaleFactor | None = None

    def selected(self, operation: Operation, tensor: str, position: Position) -> Selected:
        """Return the terms in which a tensor has this position."""
        rows = [axis.rows(tensor, position) for axis in self.axes]
        chosen = grid(*(np.arange(len(found)) for found in rows)) if rows else np.zeros((1, 0), int)
        places: dict[str, Indices] = {}
        for name in ("y", *(factor for factor in self.factors if factor != tensor)):
            shape = operation.output_shape if name == "y" else operation.shapes[name]
            where = places[name] = np.zeros((len(chosen), len(shape)), dtype=np.int64)
            for number, (axis, found) in enumerate(zip(self.axes, rows, strict=True)):
                if name in axis.dims:
                    where[:, axis.dims[name]] = found.index[name][chosen[:, number]]
        padding = np.zeros(len(chosen), dtype=bool)
        for number, found in enumerate(rows):
            if found.padding is not None:
                padding |= found.padding[chosen[:, number]]
        shares = tuple(
            found.share[chosen[:, number]]
            for number, found in enumerate(rows)
            if found.share is not None
        )
        return Selected(places, padding if padding.any() else None, shares)

    def terms(self, captured: Captured, tensor: str, position: Position) -> Terms | None:
        """Return the terms of y, or of the gradient of a factor; None without any."""
        found = self.selected(captured.operation, tensor, position)
        if not len(found.places["y"]):
            return None
        present = None if found.padding is None else ~found.padding
        factors = [] if tensor == "y" else [gathered(DL_DY, captured.dl_dy, found.places["y"])]
        factors += [
            gathered(
                _written(name),
                captured.operands[name],
                found.places[name],
                present if name == "x" else None,
            )
            for name in self.factors
            if name != tensor
        ]
        if self.scale is not None:
            factors.append(self.scale(captured, found))
        return product(*factors, is_padding=found.padding)

    def first(self, operation: Operation, tensor: str, position: Position) -> Position:
        """Return the first place of a factor that an output uses, no padding if it can be."""
        shape = operation.shapes[tensor]
        place = [0] * len(shape)
        for axis in self.axes:
            rows = axis.rows("y", position)
            if tensor in axis.dims and len(rows):
                is_read = rows.padding is not None and tensor == "x" and not rows.padding.all()
                row = int(np.argmin(rows.padding)) if is_read and rows.padding is not None else 0
                for dim, index in zip(axis.dims[tensor], rows.index[tensor][row], strict=True):
                    place[dim] = int(np.clip(index, 0, shape[dim] - 1))
        return tuple(place)


def _written(symbol: str) -> str:
    """`x_{1}` of x_1."""
    letter, _, number = symbol.partition("_")
    return f"{letter}_{{{number}}}" if number else letter


Parts = Callable[[Operation], tuple[Part, ...]]


def linear_explainer(parts: Parts, formulas: Formulas) -> Explainer:
    """Return the explainer of a function that is a sum of such parts."""

    def output(captured: Captured, position: Position) -> tuple[Value, ...]:
        found = [part.terms(captured, "y", position) for part in parts(captured.operation)]
        groups = tuple(terms for terms in found if terms is not None)
        actual = float(captured.output[position])
        return (sum_value(captured, indexed("y", position), groups, actual),)

    def gradient(captured: Captured, symbol: str, position: Position) -> tuple[Value, ...]:
        found = [
            part.terms(captured, symbol, position)
            for part in parts(captured.operation)
            if symbol in part.factors
        ]
        groups = tuple(terms for terms in found if terms is not None)
        name = indexed(f"dL/d{symbol.partition('_')[0]}", position)
        actual = captured.gradient_at(symbol, position)
        return (sum_value(captured, name, groups, actual),)

    def first(operation: Operation, symbol: str, position: Position) -> Position:
        return first_place(parts(operation), operation, symbol, position)

    return Explainer(formulas, output, where_used(gradient), first)


def first_place(
    parts: tuple[Part, ...], operation: Operation, symbol: str, position: Position
) -> Position:
    """Return the first place of an operand that an output uses."""
    part = next(part for part in parts if symbol in part.factors)
    return part.first(operation, symbol, position)


def refuse_twins(operation: Operation) -> str | None:
    """Refuse a function of a tensor and itself."""
    if operation.has_twins:
        return f"{operation.name} of a tensor and itself, whose gradients are not told apart"
    return None


# The formulas -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Letters:
    """An axis in the formulas.

    Args:
        sums: the sum sign where the index of this tensor is given; missing where there is none.
        index: where the index of this tensor is given, the index of every tensor.
    """

    sums: Mapping[str, str]
    index: Callable[[str], Mapping[str, Sequence[str]]]


def shared_letter(letter: str, size: str, tensors: str) -> Letters:
    """Return those of an axis along which these tensors have the same index."""
    index = dict.fromkeys(tensors, (letter,))
    sums = {tensor: notation.summed(letter, size) for tensor in "yxwbz" if tensor not in tensors}
    return Letters(sums, lambda given: index)


def batch_letters(names: Sequence[str], tensors: str = "yx") -> tuple[Letters, ...]:
    """Return those of the leading dimensions: n, or n_1 and n_2."""
    return tuple(shared_letter(name, name.replace("n", "N"), tensors) for name in names)


def linear_formulas(
    axes: Sequence[Letters],
    factors: str,
    where: Mapping[str, str],
    *,
    has_bias: bool = False,
    scale: Callable[[Sequence[str]], str] = lambda spatial: "",
    num_spatial: int = 0,
) -> tuple[GeneralFormula, ...]:
    """Return the formulas of y and of the gradient of each factor.

    Args:
        factors: the tensors that are multiplied.
        where: what the symbols mean, by quantity.
        scale: one more factor, by the indices of the output's last `num_spatial` dimensions.
    """

    def index(given: str, tensor: str) -> tuple[str, ...]:
        return tuple(letter for axis in axes for letter in axis.index(given).get(tensor, ()))

    def sums(given: str) -> str:
        met = [axis for axis in axes if given != "b" or "y" in axis.index(given)]
        return "".join(axis.sums.get(given, "") for axis in met)

    def scaled(given: str) -> str:
        made = index(given, "y")
        return scale(made[len(made) - num_spatial :])

    read = [notation.at(factor, *index("y", factor)) for factor in factors]
    bias = f" + b_{''.join(index('y', 'b'))}" if has_bias else ""
    y = f"{notation.at('y', *index('y', 'y'))} = "
    y += notation.spaced(scaled("y"), sums("y"), *read) + bias
    formulas = [GeneralFormula("y", y, where.get("y", ""))]
    for given in (*factors, *("b" * has_bias)):
        others = [notation.at(f, *index(given, f)) for f in factors if f != given and given != "b"]
        dl_dy = notation.gradient("y", *index(given, "y"))
        right = notation.spaced(sums(given), scaled(given), dl_dy, *others)
        left = notation.gradient(given, *index(given, given))
        quantity = f"dL/d{given}"
        formulas.append(GeneralFormula(quantity, f"{left} = {right}", where.get(quantity, "")))
    return tuple(formulas)
