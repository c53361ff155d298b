"""What a network costs at twice the resolution, with twice the channels, and one block deeper."""

from layerscope.errors import UserError
from layerscope.explain.analysis.findings import (
    Said,
    Subject,
    bytes_,
    code,
    count,
    figures_of,
    listed,
    remarks,
    step_flops,
    textbook_figures,
    times,
)
from layerscope.explain.analysis.variant_runs import VariantRun
from layerscope.explain.analysis.variants import deepened, fitted, skeleton, widened

_COMPARED = ("num_parameters", "forward_flops", "saved_bytes", "peak_bytes")


def _checked(subject: Subject, run: VariantRun) -> VariantRun:
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


def _said(subject: Subject, run: VariantRun, text: str) -> Said:
    figures = (
        *textbook_figures(run, subject.base),
        *figures_of(run, *_COMPARED, base=subject.base),
    )
    return Said(text + remarks(run, figures), figures)


def _growth(subject: Subject, run: VariantRun) -> str:
    base, own, its = subject.base, subject.base.predicted, run.predicted
    return (
        f"a step's FLOPs grow {times(step_flops(run), step_flops(base))} by the textbook, what "
        f"autograd keeps {times(its.saved_bytes, own.saved_bytes)}, to {bytes_(its.saved_bytes)}, "
        f"and the peak {times(its.peak_bytes, own.peak_bytes)}"
    )


def _layers_with_other_parameters(subject: Subject, run: VariantRun) -> dict[str, float]:
    """The layers whose parameters changed in number, and by which factor."""
    own = {cost.layer: cost.num_parameters for cost in subject.base.account.costs.layers}
    return {
        cost.layer: cost.num_parameters / own[cost.layer]
        for cost in run.account.costs.layers
        if own.get(cost.layer) and cost.num_parameters != own[cost.layer]
    }


def double_resolution(subject: Subject) -> Said:
    """Images twice as high and twice as wide."""
    batch, channels, *sizes = subject.input_shape
    if not sizes:
        raise UserError("its input has no height and no width")
    shape = (batch, channels, *(2 * size for size in sizes))
    run = _checked(subject, subject.run(fitted(skeleton(subject.network), shape), shape))
    changed = _layers_with_other_parameters(subject, run)
    parameters = (
        f"The parameters become {count(run.predicted.num_parameters)}, "
        f"{times(run.predicted.num_parameters, subject.base.predicted.num_parameters)}: "
        f"{listed(changed)} read{'s' if len(changed) == 1 else ''} more features."
        if changed
        else f"The parameters do not change: {count(run.predicted.num_parameters)}."
    )
    factor = 2 ** len(sizes)
    text = (
        f"From {'×'.join(map(str, sizes))} to {'×'.join(map(str, shape[2:]))} there are {factor} "
        f"times as many positions; {_growth(subject, run)}. {parameters}"
        f"{_unchanged(subject, run, factor)}"
    )
    return _said(subject, run, text)


def _unchanged(subject: Subject, run: VariantRun, factor: int) -> str:
    """Layers whose work does not grow with the positions."""
    own = {cost.layer: cost.forward_flops for cost in subject.base.account.costs.layers}
    constant = [
        cost.layer
        for cost in run.account.costs.layers
        if cost.forward_flops and own.get(cost.layer) == cost.forward_flops
    ]
    if not constant:
        return ""
    flops = sum(own[layer] or 0 for layer in constant)
    return (
        f" Not exactly {factor}×, since the work of {listed(constant)} ({count(flops)} FLOPs "
        "forward) and the parameters' gradients do not depend on the resolution."
    )


def double_channels(subject: Subject) -> Said:
    """Twice the channels of every layer between the image and the classes."""
    if subject.last is None:
        raise UserError("no layer multiplies by weights")
    variant = widened(subject.network, subject.classifiers, subject.input_shape)
    run = _checked(subject, subject.run(variant))
    base = subject.base
    changed = _layers_with_other_parameters(subject, run)
    weights = {cost.layer for cost in base.account.costs.layers if cost.macs}
    slow = [layer for layer, factor in changed.items() if layer in weights and factor <= 2]
    depthwise = [layer for layer in slow if layer in _depthwise_layers(subject)]
    one_side = [layer for layer in slow if layer not in depthwise]
    text = (
        "With twice the channels the parameters grow from "
        f"{count(base.predicted.num_parameters)} to {count(run.predicted.num_parameters)}, "
        f"{times(run.predicted.num_parameters, base.predicted.num_parameters)}; "
        f"{_growth(subject, run)}. A layer grows four times only where both its inputs and its "
        "outputs double. "
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
    text += "Norms, activations and pooling, like the biases, just double."
    return _said(subject, run, text)


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
    run = _checked(subject, subject.run(variant))
    base = subject.base
    own = {cost.layer for cost in base.account.costs.layers}
    new = [cost for cost in run.account.costs.layers if cost.layer not in own]
    parameters = sum(cost.num_parameters for cost in new)
    flops = sum(cost.forward_flops or 0 for cost in new)
    all_parameters = (run.predicted.num_parameters or 0) - (base.predicted.num_parameters or 0)
    text = (
        f"A copy of {code(block)} behind it, from {new[0].input_shapes[0][1]} to "
        f"{new[-1].output_shapes[0][1]} channels, has {count(parameters)} parameters and takes "
        f"{count(flops)} FLOPs forward. "
    )
    if all_parameters != parameters:
        changed = _layers_with_other_parameters(subject, run)
        text += (
            f"The layers behind it that read more or fewer features, {listed(changed)}, change by "
            f"{all_parameters - parameters:+,} parameters, so that the network has "
            f"{count(run.predicted.num_parameters)}. "
        )
    text += f"Altogether {_growth(subject, run)}."
    return _said(subject, run, text)
