"""A small language of arithmetic over named quantities: an expression is data and runs no code.

    number  12
    name    conv1.macs, layer1.0.conv1.C_out, total.num_parameters
    sum     a + b - c, also of a group's columns, element by element
    product a * b / c, a // b, a ^ 2 (×, · and ** too); ⌊a / b⌋; 2(a + b)
    group   sum(column), shared(column): what all have in common, or nothing
    shape   (a, b), (a,)
    None    nothing is printed there

Arithmetic is exact: a division gives a fraction. A file of expressions may come from anywhere, so
length, nesting, exponents and the size of every number are bounded.
"""

import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from math import floor
from operator import add, mul, sub
from typing import Any

ExactNumber = int | Fraction
Shape = tuple[int, ...]

MAX_LENGTH = 1_000  # characters
MAX_DEPTH = 40  # parentheses in parentheses
MAX_EXPONENT = 64
MAX_BITS = 1_000  # of a numerator or denominator: still a float


class ExpressionError(ValueError):
    """Text that is no expression, or one that names what does not exist."""


class LayerValues(tuple[Any, ...]):
    """One quantity of several layers, in their order; arithmetic goes element by element."""

    __slots__ = ()


# None where there is nothing to print: the input's own input, a total's shape.
ExpressionValue = ExactNumber | Shape | LayerValues | None
Lookup = Callable[[str], ExpressionValue]

_TOKEN = re.compile(
    # A name has a letter somewhere: `0.macs` is one, and 12 is none.
    r"\s*(?:(?P<name>(?=[\w.]*[^\W\d])\w+(?:\.\w+)*)"
    r"|(?P<number>[0-9]+)|(?P<sign>\*\*|//|[-+*/^(),×·⌊⌋]))"
)


def expression_value(expression: str, lookup: Lookup) -> ExpressionValue:
    """Return the value of an expression.

    Args:
        lookup: dotted name to its value; raises ExpressionError for a name that it does not know.

    Raises:
        ExpressionError: anything but the language above, or more of it than a person writes.
    """
    try:
        if len(expression) > MAX_LENGTH:
            raise ExpressionError(f"longer than {MAX_LENGTH:,} characters")
        return _ExpressionParser(_tokens(expression), lookup).parse()
    except ExpressionError as error:
        shown = expression if len(expression) <= 100 else f"{expression[:97]}..."
        raise ExpressionError(f"{error}, in {shown!r}") from None


def _tokens(expression: str) -> list[tuple[str, str]]:
    """Return kind and text of each token: `name`, `number`, `sign`."""
    tokens: list[tuple[str, str]] = []
    at, text = 0, expression.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ExpressionError(f"not in the language: {text[at:].strip()[0]!r}")
        kind = match.lastgroup or ""
        tokens.append((kind, match[kind]))
        at = match.end()
    return tokens


class _ExpressionParser:
    """Reads an expression by recursive descent and computes it on the way."""

    def __init__(self, tokens: Sequence[tuple[str, str]], lookup: Lookup) -> None:
        self._tokens = tokens
        self._lookup = lookup
        self._at = 0
        self._depth = 0

    def parse(self) -> ExpressionValue:
        """Return the value of all tokens together."""
        value = self._sum()
        if self._at < len(self._tokens):
            raise ExpressionError(f"{self._next!r} is one too many")
        return value

    @property
    def _next(self) -> str:
        return self._tokens[self._at][1] if self._at < len(self._tokens) else ""

    def _take(self, *signs: str) -> str:
        """Return the next token and pass it where it is one of these signs; else nothing."""
        if self._next not in signs or not self._next:
            return ""
        self._at += 1
        return self._tokens[self._at - 1][1]

    def _expect(self, sign: str) -> None:
        if not self._take(sign):
            raise ExpressionError(f"{sign!r} is missing")

    def _sum(self) -> ExpressionValue:
        value = self._product()
        while sign := self._take("+", "-"):
            value = _combined(add if sign == "+" else sub, value, self._product())
        return value

    def _product(self) -> ExpressionValue:
        value = self._signed()
        while True:
            if sign := self._take("*", "×", "·", "/", "//"):
                value = _combined(_OPERATORS[sign], value, self._signed())
            elif self._next == "(" and self._tokens[self._at - 1][0] == "number":  # 2(1)
                value = _combined(mul, value, self._atom())
            else:
                return value

    def _signed(self) -> ExpressionValue:
        negative = False
        while self._take("-"):
            negative = not negative
        value = self._power()
        return _combined(sub, 0, value) if negative else value

    def _power(self) -> ExpressionValue:
        value = self._atom()
        if not self._take("^", "**"):
            return value
        sign = -1 if self._take("-") else 1
        return _combined(_raised, value, _combined(mul, sign, self._atom()))

    def _atom(self) -> ExpressionValue:
        kind, text = self._tokens[self._at] if self._at < len(self._tokens) else ("", "")
        self._at += 1
        if kind == "number":
            return _bounded(int(text))
        if kind == "name":
            return self._named(text)
        if text in ("(", "⌊"):
            return self._nested(text)
        raise ExpressionError(f"{text!r} where a number or a name is missing")

    def _named(self, name: str) -> ExpressionValue:
        if name in _FUNCTIONS and self._next == "(":
            column = self._atom()
            if not isinstance(column, LayerValues):
                raise ExpressionError(f"{name}() takes a quantity of a group of layers")
            return _FUNCTIONS[name](column)
        if self._next == "(":
            raise ExpressionError(f"no function {name!r}")
        return None if name == "None" else self._lookup(name)

    def _nested(self, opened: str) -> ExpressionValue:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ExpressionError(f"nested more than {MAX_DEPTH} deep")
        value = self._sum()
        if opened == "⌊":
            self._expect("⌋")
            value = floor(_number(value))
        elif self._next == ",":
            value = self._shape(value)
        else:
            self._expect(")")
        self._depth -= 1
        return value

    def _shape(self, first: ExpressionValue) -> Shape:
        sizes = [_integer(first)]
        while self._take(","):
            if self._next != ")":
                sizes.append(_integer(self._sum()))
        self._expect(")")
        return tuple(sizes)


def _combined(
    operator: Callable[[Any, Any], ExactNumber], left: ExpressionValue, right: ExpressionValue
) -> ExpressionValue:
    if isinstance(left, LayerValues) and isinstance(right, LayerValues):
        if len(left) != len(right):
            raise ExpressionError(f"groups of {len(left)} and of {len(right)} layers")
        return LayerValues(_combined(operator, a, b) for a, b in zip(left, right, strict=True))
    if isinstance(left, LayerValues):
        return LayerValues(_combined(operator, a, right) for a in left)
    if isinstance(right, LayerValues):
        return LayerValues(_combined(operator, left, b) for b in right)
    try:
        return _bounded(operator(_number(left), _number(right)))
    except ZeroDivisionError:
        raise ExpressionError("a division by zero") from None


def _bounded(number: ExactNumber) -> ExactNumber:
    if max(number.numerator.bit_length(), number.denominator.bit_length()) > MAX_BITS:
        raise ExpressionError(f"a number of more than {MAX_BITS:,} bits")
    return number


def _number(value: ExpressionValue) -> ExactNumber:
    if isinstance(value, int | Fraction):
        return value
    raise ExpressionError(f"arithmetic with {value}")


def _integer(value: ExpressionValue) -> int:
    if isinstance(value, int | Fraction) and value.denominator == 1:
        return int(value)
    raise ExpressionError(f"a shape of {value}")


def _divided(dividend: ExactNumber, divisor: ExactNumber) -> Fraction:
    return Fraction(dividend) / divisor


def _raised(base: ExactNumber, exponent: ExactNumber) -> ExactNumber:
    if exponent.denominator != 1 or abs(exponent) > MAX_EXPONENT:
        raise ExpressionError(f"an exponent that is no whole number up to {MAX_EXPONENT}")
    return Fraction(base) ** int(exponent) if exponent < 0 else base ** int(exponent)


def _sum(column: LayerValues) -> ExactNumber:
    total: ExactNumber = 0
    for value in column:
        total = _bounded(total + _number(value))
    return total


def _shared(column: LayerValues) -> ExpressionValue:
    """Return what all have in common; None where they differ."""
    return column[0] if len(set(column)) == 1 else None


_OPERATORS: dict[str, Callable[[Any, Any], ExactNumber]] = {
    "*": mul,
    "×": mul,
    "·": mul,
    "/": _divided,
    "//": lambda dividend, divisor: dividend // divisor,
}
_FUNCTIONS: dict[str, Callable[[LayerValues], ExpressionValue]] = {"sum": _sum, "shared": _shared}
