"""What a step of the network costs, and which layers make it."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import prod

from layerscope.networks.layer_calls import DescribedCall, calls_by_layer
from layerscope.theory import LayerCost, Total
from layerscope.whatif.findings import (
    Figure,
    Said,
    Subject,
    figures_of,
    known_bytes,
    remarks,
    without_formula,
)
from layerscope.whatif.variant_runs import VariantRun
from layerscope.whatif.words import bytes_, code, count, listed, percent, ratio, times


def one_step(subject: Subject) -> Said:
    """The figures that everything else is compared with."""
    base = subject.base
    total, predicted = base.textbook, base.predicted
    whole = total.output_bytes + total.gradient_bytes + total.parameter_gradient_bytes
    quantities = ("num_parameters", "forward_flops", "output_bytes", "saved_bytes", "peak_bytes")
    figures = figures_of(base, *quantities)
    text = (
        f"{count(predicted.num_parameters or 0)} parameters. By the textbook's conventions a step "
        f"takes {count(total.forward_flops)} FLOPs forward and {count(total.backward_flops)} "
        f"backward{_missing(base)}. "
    )
    if predicted.forward_flops is not None:
        text += (
            "The instrument counts convolutions and linear layers only, "
            f"{count(predicted.forward_flops)} forward. "
        )
    if (put_out := known_bytes(base, "output_bytes")) is not None:
        text += f"The layers put out {put_out}. "
    if (kept := known_bytes(base, "saved_bytes")) is not None:
        text += f"When the forward pass ends, autograd keeps {kept}. "
    if (peak := known_bytes(base, "peak_bytes")) is not None:
        text += (
            f"At its peak the step holds {peak} above parameters, buffers and input (what an "
            "operation takes and gives back within itself is left out, here and below), where all "
            f"outputs, their gradients and the parameters' would add up to {bytes_(whole)}: what "
            "is kept and the gradients on the way are released as the backward pass has used them."
        )
    return Said(text.rstrip() + remarks(base, figures), figures)


def _missing(run: VariantRun) -> str:
    unknown = run.textbook.unknown
    return f", without those of {listed(unknown)}, which are not known" if unknown else ""


def dominating_layers(subject: Subject) -> Said:
    """Which layers have most of the FLOPs, of the memory, of the parameters."""
    base = subject.base
    costs = base.account.costs.layers
    types = base.account.costs.by_type()
    text = "".join(
        _most(types, costs, name, of)
        for name, of in _RANKED.items()
        if name != _FLOPS or not base.textbook.lower_bound
    )
    if base.textbook.lower_bound:
        text = f"Shares of the FLOPs are not known, since {without_formula(base)}. {text}"
    text += _scaling(base)
    return Said(text.rstrip(), tuple(_shares(subject)))


_FLOPS = "forward FLOPs"
_RANKED: dict[str, Callable[[LayerCost | Total], int]] = {
    _FLOPS: lambda cost: cost.forward_flops or 0,
    "output bytes": lambda cost: cost.output_bytes,
    "parameters": lambda cost: cost.num_parameters,
}


def _most(
    types: Sequence[Total],
    layers: Sequence[LayerCost],
    name: str,
    of: Callable[[LayerCost | Total], int],
) -> str:
    """Say which type and which layer have the most of something; all that have as much."""
    if not any(map(of, layers)):
        return ""
    first_types = _first({total.name: of(total) for total in types})
    first_layers = _first({layer.layer: of(layer) for layer in layers})
    return f"The most {name}, by type: {first_types}; by layer: {first_layers}. "


def _first(amounts: dict[str, int]) -> str:
    most = max(amounts.values())
    names = [name for name, amount in amounts.items() if amount == most]
    each = " each" if len(names) > 1 else ""
    return f"{listed(names)}, {percent(most, sum(amounts.values()))}{each}"


def _scaling(base: VariantRun) -> str:
    """Two convolutions that follow each other: what of their ratio is channels, what positions."""
    calls = calls_by_layer(base.spec.layers).values()
    convolutions = [first for first, *_ in calls if first.kind in ("conv1d", "conv2d", "conv3d")]
    pair = _telling(list(pairwise(convolutions)))
    if pair is None:
        return ""
    before, after = pair
    channels, kernel, positions, product = (
        of(after) / of(before) for of in (_channels, _kernel_area, _positions, _macs)
    )
    return (
        "A convolution's FLOPs are 2 · positions · K · C_in · C_out / groups with K weights in its "
        "window, so they grow with the product of the channels as with the number of positions: "
        f"from {code(before.key)} to {code(after.key)} the channels' product changes "
        f"{channels:.4g}×, the positions {positions:.4g}×, K {kernel:.4g}×, and the FLOPs "
        f"{product:.4g}×."
    )


def _telling(
    pairs: Sequence[tuple[DescribedCall, DescribedCall]],
) -> tuple[DescribedCall, DescribedCall] | None:
    """The last two of which channels and positions differ; else the last of which either does."""
    for needed in (2, 1):
        for before, after in reversed(pairs):
            differing = sum(of(before) != of(after) for of in (_channels, _positions))
            if differing >= needed and _macs(before):
                return before, after
    return None


def _channels(spec: DescribedCall) -> int:
    geometry = spec.geometry
    return geometry["in_channels"] * geometry["out_channels"] // geometry["groups"]


def _kernel_area(spec: DescribedCall) -> int:
    return prod(spec.geometry["kernel_size"])


def _positions(spec: DescribedCall) -> int:
    return spec.output_elements // spec.geometry["out_channels"]


def _macs(spec: DescribedCall) -> int:
    return _channels(spec) * _kernel_area(spec) * _positions(spec)


def _shares(subject: Subject) -> list[Figure]:
    """Per type, as percent of the network's; bytes measured as the outputs that were recorded."""
    base, figures = subject.base, []
    recorded = None if base.counted is None else base.counted[0]
    total = base.textbook
    for own in base.account.costs.by_type():
        layers = {cost.layer for cost in base.account.costs.layers if cost.type == own.name}
        measured = None
        if recorded is not None:
            measured = sum(row.output_bytes for row in recorded.layers if row.layer in layers)
            measured = _percentage(measured, recorded.output_bytes)
        figures += [
            Figure(
                f"{own.name}, of the forward FLOPs by the textbook",
                "%",
                None if total.lower_bound else _percentage(own.forward_flops, total.forward_flops),
            ),
            Figure(
                f"{own.name}, of the output bytes",
                "%",
                _percentage(own.output_bytes, total.output_bytes),
                measured,
            ),
        ]
    return figures


def _percentage(part: int, whole: int) -> float | None:
    share = ratio(part, whole)
    return None if share is None else 100 * share


def backward_against_forward(subject: Subject) -> Said:
    """Their ratio by the textbook, and of what is really computed."""
    base = subject.base
    total, predicted, measured = base.textbook, base.predicted, base.measured
    missing = [
        cost
        for cost in base.account.costs.layers
        if cost.macs and cost.input_gradient_flops and _needs_no_input_gradient(subject, cost.layer)
    ]
    never = sum(cost.input_gradient_flops or 0 for cost in missing)
    twice = _counted_too_often(subject)
    computed = None if predicted.backward_flops is None else predicted.backward_flops - twice
    text = _ratio_said(base)
    if never:
        gradient = sum(cost.gradient_bytes for cost in missing)
        part = percent(never, total.backward_flops)
        share = "" if total.lower_bound else f", {part} of the backward pass,"
        text += (
            f" The input's gradient in {listed([cost.layer for cost in missing])} is never "
            f"computed, since nothing before needs one: {count(never)} FLOPs{share} and "
            f"{bytes_(gradient)} that the textbook counts and no machine spends."
        )
        if not total.lower_bound and total.forward_flops:
            without = times(total.backward_flops - never, total.forward_flops)
            text += f" Without it the ratio is {without}."
    if computed is not None and predicted.forward_flops:
        text += (
            " Of convolutions and linear layers alone, as they are really computed, it is "
            f"{times(computed, predicted.forward_flops)}."
        )
    if twice:
        text += (
            f" The counter counts {count(twice)} FLOPs of grouped convolutions' weight gradients "
            "too often, each once for every group: predicted and measured contain them."
        )
    own_backward = None if total.lower_bound else total.backward_flops
    figures = (
        Figure("backward FLOPs by the textbook", "FLOPs", own_backward),
        Figure(
            "backward against forward by the textbook",
            "×",
            ratio(own_backward, total.forward_flops),
        ),
        Figure(
            "backward FLOPs of convolutions and linear layers, as computed",
            "FLOPs",
            predicted.backward_flops,
            measured.backward_flops,
        ),
        Figure(
            "backward against forward, of these",
            "×",
            ratio(predicted.backward_flops, predicted.forward_flops),
            ratio(measured.backward_flops, measured.forward_flops),
        ),
        Figure("gradient of the image, never computed", "FLOPs", never),
    )
    return Said(text + remarks(base, figures), figures)


def _ratio_said(base: VariantRun) -> str:
    """Compare all layers, or those whose FLOPs are known."""
    total = base.textbook
    if not total.forward_flops:
        return "No layer's FLOPs are known."
    factor = times(total.backward_flops, total.forward_flops)
    text = f"By the textbook the backward pass takes {factor} the forward pass"
    if total.lower_bound:
        text += f" in the layers whose FLOPs are known ({without_formula(base)})"
    return (
        f"{text}: convolutions and linear layers compute two gradients, of their input and of "
        "their weight, each as dear as the forward pass; the rest computes one."
    )


def _needs_no_input_gradient(subject: Subject, key: str) -> bool:
    calls = [spec for spec in subject.base.spec.layers if spec.key == key]
    return all(spec.inputs and not spec.inputs[0].requires_grad for spec in calls)


def _counted_too_often(subject: Subject) -> int:
    """Return what the counter counts too often of grouped convolutions' weight gradients."""
    costs = {cost.layer: cost for cost in subject.base.account.costs.layers}
    return sum(
        (spec.geometry["groups"] - 1) * (costs[spec.key].weight_gradient_flops or 0)
        for spec in subject.base.spec.layers
        if spec.geometry.get("groups", 1) > 1 and spec.records_gradient
    )
