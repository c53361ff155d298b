"""A figure that agrees stops agreeing when it is printed one unit of its last digit off."""

import re
from fractions import Fraction

import pytest

from layerscope.audit import audit_network, walkthrough
from layerscope.audit.expressions import expression_value
from layerscope.audit.printed import verdict
from layerscope.audit.quantities import Quantities
from layerscope.networks.cifar_cnn import CifarCNN
from profile_example import account_of

# Their last digit is not their precision (docs of layerscope.audit.printed).
COARSE = {"8-9×", "millions", "+~300M", "—"}
ONE_NUMBER = re.compile(
    r"(?P<before>\D*)(?P<digits>\d[\d,]*(?:\.(?P<decimals>\d+))?)(?P<after>\D*)"
)


@pytest.fixture(scope="module")
def figures():
    """Figure, right value, verdict; of those that agree and are not coarse."""
    claims = walkthrough()
    known = account_of(CifarCNN(), (32, 3, 32, 32))
    quantities = Quantities(known, claims.groups, claims.definitions)
    cells = audit_network(CifarCNN(), claims).cells
    return [
        (figure.printed, expression_value(figure.formula, quantities))
        for (_, figure), cell in zip(claims.figures, cells, strict=True)
        if cell.verdict == "agrees" and figure.printed not in COARSE
    ]


def one_unit_off(match, direction):
    """None where it would be below 0, or end in a zero that is no digit."""
    decimals = len(match["decimals"] or "")
    value = Fraction(match["digits"].replace(",", "")) + direction * Fraction(1, 10**decimals)
    if value < 0 or (not decimals and "≈" in match["before"] and value % 10 == 0):
        return None
    return f"{match['before']}{float(value):,.{decimals}f}{match['after']}"


@pytest.mark.parametrize("direction", [1, -1])
def test_one_number(figures, direction):
    pairs = [
        (one_unit_off(match, direction), right)
        for printed, right in figures
        if not isinstance(right, tuple) and (match := ONE_NUMBER.fullmatch(printed))
    ]
    pairs = [(moved, right) for moved, right in pairs if moved is not None]
    assert len(pairs) > 400
    for moved, right in pairs:
        assert verdict(moved, right) in ("rounding", "wrong"), moved


def test_exact_counts_become_rounding_by_one_and_wrong_by_two(figures):
    counts = [
        (match, right)
        for printed, right in figures
        if isinstance(right, int)
        and (match := ONE_NUMBER.fullmatch(printed))
        and match["after"] in ("", " bytes", " elements", " parameters", " B")
    ]
    assert len(counts) > 200
    for match, right in counts:
        assert verdict(one_unit_off(match, 1), right) == "rounding"
        assert verdict(one_unit_off(match, 2), right) == "wrong"


def test_the_last_size_or_operand(figures):
    others = [(p, right) for p, right in figures if not ONE_NUMBER.fullmatch(p)]
    assert len(others) > 150
    for printed, right in others:
        moved = re.sub(r"\d+(?=\D*$)", lambda last: str(int(last.group()) + 1), printed)
        assert verdict(moved, right) in ("rounding", "wrong"), moved
