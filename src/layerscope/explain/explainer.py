"""What a kind of layer needs in order to be explained: one entry in kinds.EXPLAINERS."""

from collections.abc import Callable
from dataclasses import dataclass

from layerscope.explain.captured import Captured
from layerscope.explain.values import Position, Value
from layerscope.networks.layer_calls import DescribedCall


@dataclass(frozen=True)
class GeneralFormula:
    """A formula with indices, for every position.

    Args:
        quantity: `y`, `dL/dx`, `dL/dw`, `dL/db`, `mean`, ...
        latex: without dollar signs.
        where: what its symbols mean and where they run, a sentence in Markdown with `$...$`.
    """

    quantity: str
    latex: str
    where: str = ""


Explain = Callable[[Captured, Position], tuple[Value, ...]]


@dataclass(frozen=True)
class Explainer:
    """How a kind's numbers come about.

    Each function takes a position (of the output, of the input, of the weight, of the bias) and
    returns what is computed on the way (a norm's statistics) first and the value itself last.

    Args:
        formulas: forward and backward, for a layer with these settings: without padding, say, the
            formula has none.
        first_input: of an output position, the first input position of its receptive field that is
            no padding.
        first_weight: of an output position, the first weight that it uses; None without weights.
        bias: likewise, which bias.
        refuses: why a call with these settings cannot be explained; None where it can. Asked before
            anything else.
    """

    formulas: Callable[[DescribedCall], tuple[GeneralFormula, ...]]
    output: Explain
    input_gradient: Explain
    first_input: Callable[[DescribedCall, Position], Position]
    weight_gradient: Explain | None = None
    bias_gradient: Explain | None = None
    first_weight: Callable[[DescribedCall, Position], Position] | None = None
    bias: Callable[[DescribedCall, Position], Position] | None = None
    refuses: Callable[[DescribedCall], str | None] = lambda spec: None
