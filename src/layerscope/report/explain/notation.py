"""Symbols, conventions and the formulas that hold for every layer."""

from math import prod

from layerscope.explain.explanation import Explanation
from layerscope.operations.convolution import bias_sum_flops, conv_flops
from layerscope.operations.family import Formula, Number, elementwise_flops
from layerscope.operations.normalization import norm_flops
from layerscope.operations.pooling import max_pool_flops
from layerscope.operations.products import linear_flops
from layerscope.operations.shapes import conv_output_size
from layerscope.report.document.tables import pipes
from layerscope.report.explain.formula_lines import display
from layerscope.report.explain.numbers import DIGITS
from layerscope.report.explain.terms import FIRST_SHOWN, MOST_SHOWN
from layerscope.report.profile.formulas import general_latex, symbol_latex

_SYMBOLS = (
    (("N",), "images in the batch", "magenta"),
    (("C_in",), "channels that go in", "blue"),
    (("H_in", "W_in"), "height and width that go in", "orange"),
    (("C_out", "C"), "channels that come out; C where a layer keeps their number", "green"),
    (("H_out", "W_out"), "height and width that come out", "red"),
    (("k_h", "k_w"), "height and width of the kernel; k where both are the same", "purple"),
    (("s",), "stride: how far the kernel moves", "black"),
    (("p",), "padding: rows and columns of zeros on each side", "black"),
    (("d",), "dilation: the distance between two cells of the kernel", "black"),
)


def notation_section(explanation: Explanation) -> str:
    """Symbols in their colours, and what the numbers mean."""
    rows = [
        [", ".join(f"${symbol_latex(name)}$" for name in names), meaning, colour]
        for names, meaning, colour in _SYMBOLS
    ]
    table = pipes([("symbol", False), ("meaning", False), ("colour", False)], rows)
    more = (
        "The network's input is $x$ of the first layer. Every layer reads $x$, returns $y$, and "
        "may have a weight $w$ and a bias $b$. $L$ is the loss. Indices count from 0."
    )
    return "\n\n".join(
        ["## Notation and conventions", table, more, "### Conventions", _conventions(explanation)]
    )


def _conventions(explanation: Explanation) -> str:
    size, dtype = explanation.costs.element_size, explanation.settings.dtype
    return "\n".join(
        f"- {line}"
        for line in (
            f"Everything is of one training step with the whole batch, "
            f"{explanation.input_shape[0]:,} image{'s' * (explanation.input_shape[0] != 1)}, "
            f"in {dtype}: one number takes {size} B.",
            "1 KiB is 1,024 B and 1 MiB is 1,024 KiB. k, M and G before FLOPs are 10^3, 10^6 and "
            "10^9.",
            "FLOPs count a multiplication and an addition as one each; a MAC (multiply-accumulate) "
            "is one of both. A convolution or linear layer takes 2 FLOPs per MAC; adding its bias "
            "is not counted.",
            "In the backward pass a convolution or linear layer takes 2 FLOPs per MAC for the "
            "gradient of its input and the same for that of its weight. The additions that give a "
            "bias its gradient stand apart, and in no total.",
            "The tables follow the textbook: every output is stored, and every layer computes the "
            "gradient of its input, the first one too, although an image needs none. A view of "
            "another tensor takes no memory.",
            f"Real numbers are printed with {DIGITS} decimals and at least {DIGITS} digits that "
            "count, the numbers of a sum with as many as its printed result takes; they are "
            "calculated with all their digits. `computed` is the sum of the terms in float64, from "
            "the network's own numbers; `actual` is what the network, or autograd, really made. "
            "They differ by rounding only, which is told in ulp: units in the last place of the "
            "actual value, in its own dtype. Where the terms cancel, nothing is left but the "
            "terms' own rounding; that is said there, and an ulp of it means nothing.",
            "Beside a grid of numbers stand the row and the column: in the grid of `x[0,1,·,·]`, "
            "row 2 and column 3 are `x[0,1,2,3]`.",
            f"A sum of up to {MOST_SHOWN} terms of one form is written out; terms that are 0 and "
            f"follow each other are counted. A longer one shows its first {FIRST_SHOWN} terms that "
            "are not 0, and how many others there are, how many of these are 0 and what they add "
            "up to. `explain.json` has every term.",
        )
    )


def key_formulas_section() -> str:
    """Sizes, memory and FLOPs: from the functions that count."""
    height = general_latex(Formula("H_out", _size_of_height, _SIZE), coloured=True)
    dilated = general_latex(Formula("H_out", _dilated_size, {**_SIZE, "d": 1}), coloured=True)
    left = symbol_latex("H_out")
    example, fitting = _example(kernel_size=3), _SIZE["H_in"]
    return "\n\n".join(
        [
            "## Key formulas",
            "### Size of the output",
            display(f"{left} = {height}"),
            "The fraction counts how often the kernel can move on by the stride after its first "
            "position. The + 1 is that first position: without it the formula gives one too few. "
            f"An input of {fitting}, $k = 3$, $s = 1$, $p = 1$: the kernel moves on "
            f"{example - 1} times, so there are {example} positions. The width follows the same "
            "formula. With a dilation $d$, the kernel reaches over $d(k-1)+1$ cells:",
            display(f"{left} = {dilated}"),
            "- **Valid padding** is $p = 0$: the kernel stays inside of the input, and at stride 1 "
            "the output is smaller by $k - 1$.\n"
            "- **Same padding** keeps the size. At stride 1, "
            "$p = \\left\\lfloor \\frac{k-1}{2} \\right\\rfloor$ does so exactly where $k$ is odd; "
            f"for an even $k$ the output is smaller by 1 (an input of {fitting}, $k = 4$, $p = 1$: "
            f"{_example(kernel_size=4)}). At another stride it does not keep the size.",
            "### Memory",
            display(
                rf"\text{{bytes}} = {general_latex(Formula('', _count, _SHAPE), coloured=True)} "
                r"\times \text{bytes of one number}"
            ),
            "### FLOPs",
            "Forward, of the whole batch. For an average pooling the sizes are those of its input.",
            _flops_table(),
        ]
    )


def _size_of_height(H_in: Number, p: Number, k: Number, s: Number) -> Number:
    return conv_output_size(H_in, k, s, p)


def _dilated_size(H_in: Number, p: Number, d: Number, k: Number, s: Number) -> Number:
    return conv_output_size(H_in, k, s, p, d)


def _count(**sizes: Number) -> Number:
    return prod(sizes.values())


_SIZE = {"H_in": 32, "p": 1, "k": 3, "s": 1}
_SHAPE: dict[str, int] = dict.fromkeys(("N", "C_out", "H_out", "W_out"), 1)


def _example(kernel_size: int) -> int:
    return conv_output_size(_SIZE["H_in"], kernel_size, stride=1, padding=(kernel_size - 1) // 2)


def _flops_table() -> str:
    names = ("N", "C_out", "C_in_per_group", "H_out", "k_h", "W_out", "k_w")
    shape = dict.fromkeys(("N", "C", "H_out", "W_out"), 1)
    rows = [
        ("convolution", conv_flops, dict.fromkeys(names, 1)),
        ("linear", linear_flops, dict.fromkeys(("rows", "in_features", "out_features"), 1)),
        ("batch norm", norm_flops, shape),
        ("ReLU and other activations", elementwise_flops, shape),
        ("max pooling", max_pool_flops, {**shape, "k_h": 1, "k_w": 1}),
        (
            "average pooling",
            elementwise_flops,
            dict.fromkeys(("N", "C", "H_in", "W_in"), 1),
        ),
        ("gradient of a convolution's bias, apart", bias_sum_flops, _SHAPE),
    ]
    return pipes(
        [("layer", False), ("FLOPs", False)],
        [[name, f"${general_latex(Formula('', f, n), coloured=True)}$"] for name, f, n in rows],
    )
