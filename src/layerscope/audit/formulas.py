"""A small language of formulas over named quantities: a formula is data, and runs no code.

Names (with dots), integers, `None`, `+ - * / //`, unary minus, tuples, `sum(column)` and
`shared(column)`. Arithmetic is exact: a division gives a Fraction.
"""

import ast
from collections.abc import Callable
from fractions import Fraction
from operator import add, floordiv, mul, sub
from typing import Any

Number = int | Fraction
Shape = tuple[int, ...]


class FormulaError(ValueError):
    """A formula that is no formula, or names what does not exist."""


class Column(tuple[Any, ...]):
    """One quantity of several layers, in their order; arithmetic goes elementwise."""

    __slots__ = ()


# None where there is nothing to print: the input's own input, a total's shape.
Value = Number | Shape | Column | None


def evaluate(formula: str, lookup: Callable[[str], Value]) -> Value:
    """The formula's value.

    Args:
        lookup: dotted name to its value; raises FormulaError for a name it does not know.

    Raises:
        FormulaError: anything but the language above.
    """
    try:
        tree = ast.parse(formula, mode="eval")
    except SyntaxError:
        raise FormulaError(f"no formula: {formula!r}") from None
    try:
        return _value(tree.body, lookup)
    except FormulaError as error:
        raise FormulaError(f"{error}, in the formula {formula!r}") from None


def _value(node: ast.expr, lookup: Callable[[str], Value]) -> Value:
    match node:
        case ast.Constant(value=None):
            return None
        case ast.Constant(value=int() as number) if not isinstance(number, bool):
            return number
        case ast.Name() | ast.Attribute():
            return lookup(_dotted(node))
        case ast.Tuple(elts=parts):
            return tuple(_integer(_value(part, lookup)) for part in parts)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _combined(sub, 0, _value(operand, lookup))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _combined(_OPERATORS[type(op)], _value(left, lookup), _value(right, lookup))
        case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if name in _FUNCTIONS:
            column = _value(argument, lookup)
            if not isinstance(column, Column):
                raise FormulaError(f"{name}() takes a quantity of a group of layers")
            return _FUNCTIONS[name](column)
    raise FormulaError(f"not in the language: {ast.unparse(node)}")


def _dotted(node: ast.expr) -> str:
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=owner, attr=name):
            return f"{_dotted(owner)}.{name}"
    raise FormulaError(f"no name: {ast.unparse(node)}")


def _integer(value: Value) -> int:
    if isinstance(value, (int, Fraction)) and value == int(value):
        return int(value)
    raise FormulaError(f"a shape of {value}")


def _combined(operator: Callable[[Any, Any], Any], left: Value, right: Value) -> Value:
    if isinstance(left, Column) and isinstance(right, Column):
        return Column(_combined(operator, a, b) for a, b in zip(left, right, strict=True))
    if isinstance(left, Column):
        return Column(_combined(operator, a, right) for a in left)
    if isinstance(right, Column):
        return Column(_combined(operator, left, b) for b in right)
    return operator(_number(left), _number(right))


def _number(value: Value) -> Number:
    if isinstance(value, (int, Fraction)):
        return value
    raise FormulaError(f"arithmetic with {value}")


def _sum(column: Column) -> Number:
    return sum(_number(value) for value in column)


def _shared(column: Column) -> Value:
    """What all have in common; None where they differ."""
    return column[0] if len(set(column)) == 1 else None


def _divided(dividend: Number, divisor: Number) -> Fraction:
    return Fraction(dividend) / divisor


_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Number]] = {
    ast.Add: add,
    ast.Sub: sub,
    ast.Mult: mul,
    ast.Div: _divided,
    ast.FloorDiv: floordiv,
}

_FUNCTIONS: dict[str, Callable[[Column], Value]] = {"sum": _sum, "shared": _shared}
