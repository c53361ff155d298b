from fractions import Fraction

import pytest

from layerscope.audit.expressions import ExpressionError, LayerValues
from layerscope.audit.printed import shown, verdict

MIB = 2**20


@pytest.mark.parametrize(
    ("printed", "right", "expected"),
    [
        # Off by half a unit of the last digit, by more, by one unit, by more; above and below.
        ("63.8 M", 63_850_000, "agrees"),
        ("63.8 M", 63_850_001, "rounding"),
        ("63.8 M", 63_900_000, "rounding"),
        ("63.8 M", 63_900_001, "wrong"),
        ("63.8 M", 63_750_000, "agrees"),
        ("63.8 M", 63_749_999, "rounding"),
        ("63.8 M", 63_700_000, "rounding"),
        ("63.8 M", 63_699_999, "wrong"),
        ("93,184", 93_184, "agrees"),
        ("93,184", 93_185, "rounding"),
        ("93,184", 93_186, "wrong"),
        ("0.36 MB", Fraction(365, 1000) * MIB, "agrees"),
        ("0.36 MB", Fraction(3651, 10_000) * MIB, "rounding"),
        ("16 KB", 16_384, "agrees"),
        ("16 KB", 16_384 + 1024, "rounding"),
        ("16 KB", 16_384 + 1025, "wrong"),
        ("33.5%", Fraction(3355, 10_000), "agrees"),
        ("33.5%", Fraction(337, 1000), "wrong"),
        ("2×", Fraction(3, 2), "agrees"),
        ("2×", Fraction(149, 100), "rounding"),
        ("32-bit", 32, "agrees"),
        # "About" excuses nothing but the zeros that end an integer.
        ("~74K", 74_501, "rounding"),
        ("~74K", 75_001, "wrong"),
        ("≈ 302 MFLOPs", 302_600_000, "rounding"),
        ("+~300M", 349_000_000, "agrees"),
        ("+~300M", 400_000_000, "rounding"),
        ("+~300M", 401_000_000, "wrong"),
        ("300M", 302_900_000, "wrong"),
        ("≈ 1.0 MFLOPs", 1_100_001, "wrong"),
        ("1.8×10^9", 1_850_000_000, "agrees"),
        ("1.8×10^9", 1_910_000_000, "wrong"),
        ("3.8 × 10⁹ FLOPs", 3_760_000_000, "agrees"),
        ("4.1 GMACs", 4_089_000_000, "agrees"),
        ("60 million", 61_100_840, "wrong"),
        ("~0", 1, "rounding"),
        # A range allows for its own error.
        ("8-9×", Fraction(15, 2), "agrees"),
        ("8-9×", Fraction(19, 2), "agrees"),
        ("8-9×", Fraction(74, 10), "wrong"),
        ("8-9×", Fraction(96, 10), "wrong"),
        ("millions", 1_000_000, "agrees"),
        ("millions", 999_999, "wrong"),
        # Substituted expressions.
        ("32 × 3 × 32 × 32", 98_304, "agrees"),
        ("32 × 3 × 32 × 32", 98_305, "rounding"),
        ("81,920 + 320 + 81,920", 164_160, "agrees"),
        ("64 × (5 × 32 × 16 × 16)", 2_621_440, "agrees"),
        ("⌊(16 + 2(1) - 3)/1⌋ + 1", 16, "agrees"),
        ("⌊(17 - 2)/2⌋ + 1", 8, "agrees"),
        ("⌊(17 - 2)/2⌋ + 1", 10, "wrong"),
        # Shapes and dashes.
        ("(32, 10)", (32, 10), "agrees"),
        ("(32, 10)", (32, 11), "wrong"),
        ("(10,)", (10,), "agrees"),
        ("32×32×3", (32, 32, 3), "agrees"),
        ("128 × 64", (64, 128), "wrong"),
        ("—", None, "agrees"),
        ("—", 0, "wrong"),
        ("0", None, "wrong"),
    ],
)
def test_verdict(printed, right, expected):
    assert verdict(printed, right) == expected


@pytest.mark.parametrize(
    ("value", "printed", "text"),
    [
        (63_963_136, "63.8 M", "64.0 M"),
        (24_265_984, "22.2 MB", "23.1 MB"),
        (1_334_280_192, "≈ 1,334.0 MFLOPs", "1,334.3 MFLOPs"),
        (295_680, "+~74K", "296K"),
        (4_089_184_256, "3.8×10^9", "4.1×10^9"),
        (-19_200, "1", "-19,200"),
        (Fraction(1, 3), "30.0%", "33.3%"),
        (98_304, "2 × 3", "98,304"),
        (19_200, "millions", "19,200"),
        ((32, 10), "(1,)", "(32, 10)"),
        ((4, 4), "1×1", "4×4"),
        (12, "—", "12"),
        (None, "5", "—"),
    ],
)
def test_right_value_in_the_printed_unit(value, printed, text):
    assert shown(value, printed) == text


def test_a_number_beyond_all_floats_is_shown():
    assert shown(10**400 + Fraction(1, 2), "0.0").endswith(",000.5")


def test_a_unit_can_have_another_value():
    assert verdict("1.00 MB", 10**6) == "wrong"
    assert verdict("1.00 MB", 10**6, {"MB": 10**6}) == "agrees"
    assert shown(2_500_000, "1.0 MB", units={"MB": 10**6}) == "2.5 MB"


def test_decimals_asked_for():
    assert shown(Fraction(707, 100), "8-9×", decimals=2) == "7.07×"


@pytest.mark.parametrize(
    "printed", ["", "4 XB", "many", "(32, 10)", "1,23", "5 / (1", "9 ^ 999", "1×10^9 9"]
)
def test_what_is_no_figure_is_an_error(printed):
    with pytest.raises(ExpressionError):
        verdict(printed, 5)


def test_several_right_values_are_an_error():
    with pytest.raises(ExpressionError, match="several"):
        verdict("5", LayerValues((5, 5)))
    with pytest.raises(ExpressionError, match="several"):
        shown(LayerValues((5, 5)), "5")
