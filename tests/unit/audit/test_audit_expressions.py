from fractions import Fraction

import pytest

from layerscope.audit.expressions import MAX_LENGTH, ExpressionError, LayerValues, expression_value

NAMES = {
    "a": 7,
    "x.y": 2,
    "0.macs": 5,
    "layer1.0.conv1.macs": 11,
    "both.n": LayerValues((2, 3)),
    "both.m": LayerValues((10, 100)),
    "three": LayerValues((1, 2, 3)),
    "shapes": LayerValues(((1, 2), (1, 2))),
    "mixed": LayerValues(((1, 2), (1, 3))),
    "shape": (4, 5),
}


def lookup(name):
    if name not in NAMES:
        raise ExpressionError(f"no {name!r}")
    return NAMES[name]


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("a + x.y * 3", 13),
        ("a - 2 - 1", 4),
        ("-a", -7),
        ("--a - -a", 14),
        ("a / x.y", Fraction(7, 2)),
        ("a // x.y", 3),
        ("a × x.y", 14),
        ("a ^ 2 + 1", 50),
        ("2 ** -2", Fraction(1, 4)),
        ("⌊a / x.y⌋ + 1", 4),
        ("16 + 2(1) - 3", 15),
        ("0.macs + layer1.0.conv1.macs", 16),
        ("(a, x.y)", (7, 2)),
        ("(a / a,)", (1,)),
        ("None", None),
        ("both.n * both.m + 1", (21, 301)),
        ("6 / both.n", (3, 2)),
        ("sum(both.n * both.m)", 320),
        ("shared(shapes)", (1, 2)),
        ("shared(mixed)", None),
    ],
)
def test_value(expression, value):
    assert expression_value(expression, lookup) == value


HOSTILE = {
    "nothing": "",
    "unknown name": "b",
    "unknown quantity": "x.z + 1",
    "unfinished": "a +",
    "two values": "a a",
    "a decimal": "1.5",
    "text": "'text'",
    "a keyword": "True",
    "arithmetic with a shape": "shape + 1",
    "arithmetic with nothing": "None + 1",
    "a shape of a half": "(a / 2,)",
    "sum of a number": "sum(a)",
    "sum of two": "sum(both.n, both.m)",
    "another function": "max(both.n)",
    "an index": "both.n[0]",
    "groups of other lengths": "both.n + three",
    "a call of anything": "(lambda: 1)()",
    "an import": "__import__('os').getcwd()",
    "an attribute": "a.__class__",
    "a comprehension": "sum(x for x in both.n)",
    "an assignment": "(a := 3)",
    "a comparison": "a < 8",
    "another line": "a\n; a",
    "no character": "a + \x00",
    "a decimal point of another script": "٣ + 1",
    "division by zero": "a / (x.y - 2)",
    "whole division by zero": "a // 0",
    "zero to a negative power": "0 ^ -1",
    "a power of a fraction": "a ^ (1 / 2)",
    "a large exponent": "2 ^ 65",
    "an exponent beyond all bounds": "9 ** 999999999",
    "powers of powers": "((9 ^ 64) ^ 64) ^ 64",
    "products of powers": " * ".join(["9 ^ 64"] * 60),
    "a column of powers": "sum((both.n ^ 64) ^ 64)",
    "too long a number": "9" * 900,
    "too long": "a + " * (MAX_LENGTH // 4) + "a",
    "nested too deep": "(" * 300 + "a" + ")" * 300,
    "functions too deep": "sum(" * 200 + "both.n" + ")" * 200,
    "floors too deep": "⌊" * 300 + "a" + "⌋" * 300,
}


@pytest.mark.parametrize("expression", HOSTILE.values(), ids=HOSTILE)
def test_anything_else_is_an_error_that_shows_the_expression(expression):
    with pytest.raises(ExpressionError) as error:
        expression_value(expression, lookup)
    assert repr(expression[:90])[1:-1][:80] in str(error.value)
    assert len(str(error.value)) < 500


def test_many_signs_are_no_depth():
    assert expression_value("-" * 900 + "a", lookup) == 7
