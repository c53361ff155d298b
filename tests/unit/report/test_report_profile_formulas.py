import re
from xml.etree import ElementTree

import pytest

from layerscope.operations import CostFormula
from layerscope.operations.convolution import conv_flops
from layerscope.report.latex import general_latex, mathml, plain_formula, substituted_latex
from profile_example import cifar_cnn_profile


def conv_size(H_in, p, d, k_h, s):
    return (H_in + 2 * p - d * (k_h - 1) - 1) // s + 1


def shared(C_out, C_in, k, groups):
    return C_out * (C_in // groups * k**2 + 1)


SIZE = CostFormula("H_out", conv_size, {"H_in": 32, "p": 0, "d": 1, "k_h": 3, "s": 2})


def test_a_convolution_reads_as_in_the_walkthrough():
    geometry = {"N": 32, "C_out": 64, "C_in_per_group": 32, "H_out": 16, "W_out": 16}
    formula = CostFormula("forward_flops", conv_flops, {**geometry, "k_h": 3, "k_w": 3})
    assert general_latex(formula) == (
        r"2 \times N \times C_{\text{out}} \times C_{\text{in per group}} \times "
        r"H_{\text{out}} \times W_{\text{out}} \times k_{\text{h}} \times k_{\text{w}}"
    )
    assert substituted_latex(formula) == (
        r"2 \times 32 \times 64 \times 32 \times 16 \times 16 \times 3 \times 3 = 301{,}989{,}888"
    )


def test_numbers_are_put_in_and_never_worked_out():
    assert substituted_latex(SIZE) == (
        r"\left\lfloor \frac{32 + 2 \times 0 - 1 \times \left(3 - 1\right) - 1}{2} "
        r"\right\rfloor + 1 = 15"
    )
    formula = CostFormula("num_parameters", shared, {"C_out": 8, "C_in": 4, "k": 3, "groups": 4})
    assert substituted_latex(formula) == (
        r"8 \times \left(\left\lfloor \frac{4}{4} \right\rfloor \times {3}^{2} + 1\right) = 80"
    )


def test_mathml_is_well_formed_and_says_the_same():
    root = ElementTree.fromstring(mathml(substituted_latex(SIZE), display=True))
    assert root.tag == "math"
    assert "".join(root.itertext()) == "⌊32+2×0−1×(3−1)−12⌋+1=15"


def test_a_terminal_has_the_formula_in_plain_letters():
    assert (
        plain_formula(substituted_latex(SIZE)) == "⌊ (32 + 2 × 0 - 1 × (3 - 1) - 1)/(2) ⌋ + 1 = 15"
    )
    assert plain_formula(general_latex(SIZE, coloured=True)).startswith("⌊ (H_in + 2 × p - d ×")


def test_every_formula_of_a_network_equals_its_count():
    profile = cifar_cnn_profile()
    formulas = [f for each in profile.costs.formulas.values() for f in each]
    assert len(formulas) > 30
    for formula in formulas:
        left, right = substituted_latex(formula).split(" = ")
        assert eval(left.replace(r"\times", "*")) == int(right.replace("{,}", ""))
        assert int(right.replace("{,}", "")) == formula.value
        ElementTree.fromstring(mathml(general_latex(formula), display=True))


def test_a_symbol_of_many_letters_is_a_word():
    profile = cifar_cnn_profile()
    formula = next(f for f in profile.costs.formulas["fc"] if f.quantity == "macs")
    assert r"\text{in features}" in general_latex(formula)
    assert re.search(
        "<mtext>in&#x000A0;features</mtext>", mathml(general_latex(formula), display=False)
    )


def test_what_cannot_be_written_is_refused():
    import sympy

    formula = CostFormula("macs", lambda N: sympy.sin(N), {"N": 1})
    with pytest.raises(TypeError, match="no notation for sin"):
        general_latex(formula)
