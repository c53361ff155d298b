from fractions import Fraction

import pytest

from layerscope.audit.formulas import Column, FormulaError, evaluate

NAMES = {
    "a": 7,
    "x.y": 2,
    "both.n": Column((2, 3)),
    "both.m": Column((10, 100)),
    "shapes": Column(((1, 2), (1, 2))),
    "mixed": Column(((1, 2), (1, 3))),
    "shape": (4, 5),
}


def lookup(name):
    if name not in NAMES:
        raise FormulaError(f"no {name!r}")
    return NAMES[name]


@pytest.mark.parametrize(
    ("formula", "value"),
    [
        ("a + x.y * 3", 13),
        ("-a", -7),
        ("a / x.y", Fraction(7, 2)),
        ("a // x.y", 3),
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
def test_value(formula, value):
    assert evaluate(formula, lookup) == value


@pytest.mark.parametrize(
    "formula",
    [
        "b",
        "x.z + 1",
        "a +",
        "a ** 2",
        "True",
        "1.5",
        "'text'",
        "sum(a)",
        "sum(both.n, both.m)",
        "max(both.n)",
        "both.n[0]",
        "(lambda: 1)()",
        "__import__('os').getcwd()",
        "sum(x for x in both.n)",
        "shape + 1",
        "None + 1",
        "(a / 2,)",
    ],
)
def test_anything_else_is_an_error_that_shows_the_formula(formula):
    with pytest.raises(FormulaError) as error:
        evaluate(formula, lookup)
    assert repr(formula) in str(error.value)
