"""What a network costs with twice the channels, and one block deeper."""

from collections.abc import Sequence

from layerscope.errors import UserError
from layerscope.theory import LayerCost
from layerscope.whatif.findings import (
    Said,
    Subject,
    compared,
    figures_of,
    remarks,
    step_flops,
    textbook_figures,
    without_formula,
)
from layerscope.whatif.variant_runs import VariantRun
from layerscope.whatif.variants import deepened, widened
from layerscope.whatif.words import code, count, listed, times

_COMPARED = ("num_parameters", "forward_flops", "saved_bytes", "peak_bytes")


def checked(subject: Subject, run: VariantRun) -> VariantRun:
    """It answers the same question.

    Raises:
        UserError: its output has another shape.
    """
    own = [tensor.shape for tensor in subject.base.spec.outputs]
    its = [tensor.shape for tensor in run.spec.outputs]
    if own != its:
        raise UserError(
            f"it would return {', '.join(map(str, its))} instead of {', '.join(map(str, own))}"
        )
    return run


def said_of(subject: Subject, run: VariantRun, text: str) -> Said:
    """The text with the figures that every larger network has."""
    figures = (
        *textbook_figures(run, subject.base),
        *figures_of(run, *_COMPARED, base=subject.base),
    )
    return Said(text + remarks(run, figures), figures)


def growth(subject: Subject, run: VariantRun) -> str:
    """What becomes of a step's work and memory; as measured where no formula says it."""
    base = subject.base
    own, its = step_flops(base), step_flops(run)
    parts = []
    if own and its is not None:
        parts.append(f"a step's FLOPs become {times(its, own)} as many by the textbook")
    elif (flops := compared(base, run, "forward_flops")) is not None:
        parts.append(
            f"the forward FLOPs of convolutions and linear layers become {flops.times} as many "
            f"(of the others {without_formula(run if its is None else base)})"
        )
    if (kept := compared(base, run, "saved_bytes")) is not None:
        parts.append(f"what autograd keeps {kept.times} as much, {kept.bytes_}")
    if (peak := compared(base, run, "peak_bytes")) is not None:
        parts.append(f"the peak {peak.times} as high, {peak.bytes_}")
    return "; ".join(parts) or "what a step takes is not known"


def layers_with_other_parameters(subject: Subject, run: VariantRun) -> dict[str, float]:
    """The layers whose parameters changed in number, and by which factor."""
    own = {cost.layer: cost.num_parameters for cost in subject.base.account.costs.layers}
    return {
        cost.layer: cost.num_parameters / own[cost.layer]
        for cost in run.account.costs.layers
        if own.get(cost.layer) and cost.num_parameters != own[cost.layer]
    }


def double_channels(subject: Subject) -> Said:
    """Twice the channels of every layer between the image and the classes."""
    if subject.last is None:
        raise UserError("no layer multiplies by weights")
    variant = widened(subject.network, subject.classifiers, subject.input_shape)
    run = checked(subject, subject.run(variant))
    base = subject.base
    if run.predicted.num_parameters == base.predicted.num_parameters:
        raise UserError("it has no channels between those of its input and of its outputs")
    changed = layers_with_other_parameters(subject, run)
    weights = {cost.layer for cost in base.account.costs.layers if cost.macs}
    slow = [layer for layer, factor in changed.items() if layer in weights and factor <= 2]
    depthwise = [layer for layer in slow if layer in _depthwise_layers(subject)]
    one_side = [layer for layer in slow if layer not in depthwise]
    own, its = base.predicted.num_parameters, run.predicted.num_parameters
    text = f"With twice the channels {growth(subject, run)}. "
    if own and its is not None:
        text += f"The parameters grow from {count(own)} to {count(its)}, {times(its, own)}. "
    text += (
        "The weights of a layer grow four times only where both its inputs and its outputs double. "
    )
    if one_side:
        text += (
            f"Those of {listed(one_side)} double on one side alone: the image keeps its channels "
            "and the network its outputs. "
        )
    if depthwise:
        text += (
            f"Each filter of {listed(depthwise)} sees one channel, and there are twice as many. "
        )
    text += "Norms, activations, pooling and biases between them just double."
    return said_of(subject, run, text)


def _depthwise_layers(subject: Subject) -> set[str]:
    return {
        spec.key
        for spec in subject.base.spec.layers
        if spec.geometry.get("groups", 1) > 1
        and spec.geometry["groups"] == spec.geometry["in_channels"]
    }


def one_more_block(subject: Subject) -> Said:
    """The last of the repeated blocks once more, grown as it had grown."""
    variant, block = deepened(subject.network, subject.input_shape)
    run = checked(subject, subject.run(variant))
    base = subject.base
    own = {cost.layer for cost in base.account.costs.layers}
    new = [cost for cost in run.account.costs.layers if cost.layer not in own]
    parameters = sum(cost.num_parameters for cost in new)
    all_parameters = (run.predicted.num_parameters or 0) - (base.predicted.num_parameters or 0)
    text = (
        f"A copy of {code(block)} behind it, from {new[0].input_shapes[0][1]} to "
        f"{new[-1].output_shapes[0][1]} channels, has {count(parameters)} parameters"
        f"{_flops_of(new)}. "
    )
    changed = layers_with_other_parameters(subject, run)
    if all_parameters != parameters and changed:
        text += (
            f"The layers behind it that read more or fewer features, {listed(changed)}, change by "
            f"{all_parameters - parameters:+,} parameters, so that the network has "
            f"{count(run.predicted.num_parameters or 0)}. "
        )
    text += f"Altogether {growth(subject, run)}."
    return said_of(subject, run, text)


def _flops_of(costs: Sequence[LayerCost]) -> str:
    """Nothing where those of one are not known."""
    flops = [cost.forward_flops for cost in costs]
    known = [number for number in flops if number is not None]
    return f" and takes {count(sum(known))} FLOPs forward" if len(known) == len(flops) else ""
