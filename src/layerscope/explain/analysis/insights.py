"""What a step of the network costs, and which layers make it."""

from collections.abc import Callable, Sequence
from math import prod

from layerscope.explain.analysis.findings import (
    Figure,
    Said,
    Subject,
    bytes_,
    code,
    count,
    figures_of,
    listed,
    percent,
    ratio,
    remarks,
    times,
)
from layerscope.layers import LayerSpec
from layerscope.theory import LayerCost, Total


def one_step(subject: Subject) -> Said:
    """The figures that everything else is compared with."""
    base = subject.base
    total, predicted = base.textbook, base.predicted
    whole = total.output_bytes + total.gradient_bytes + total.parameter_gradient_bytes
    quantities = ("num_parameters", "forward_flops", "output_bytes", "saved_bytes", "peak_bytes")
    figures = figures_of(base, *quantities)
    text = (
        f"{count(predicted.num_parameters)} parameters. By the textbook's conventions a step takes "
        f"{count(total.forward_flops)} FLOPs forward and {count(total.backward_flops)} backward"
        f"{_lower_bound(subject)}; the instrument counts convolutions and linear layers only, "
        f"{count(predicted.forward_flops)} forward. The layers put out "
        f"{bytes_(predicted.output_bytes)}; when the forward pass ends, autograd keeps "
        f"{bytes_(predicted.saved_bytes)}. At its peak the step holds "
        f"{bytes_(predicted.peak_bytes)} above parameters, buffers and input (what an operation "
        "takes and gives back within itself is left out, here and below), where all outputs, "
        f"their gradients and the parameters' would add up to {bytes_(whole)}: what is kept and "
        "the gradients on the way are released as the backward pass has used them."
    )
    return Said(text + remarks(base, figures), figures)


def _lower_bound(subject: Subject) -> str:
    unknown = subject.base.textbook.unknown
    return f", without those of {listed(unknown)}, which have no formula" if unknown else ""


def dominating_layers(subject: Subject) -> Said:
    """Which layers have most of the FLOPs, of the memory, of the parameters."""
    base = subject.base
    costs = base.account.costs.layers
    kinds = base.account.costs.by_kind()
    text = "".join(_most(kinds, costs, name, of) for name, of in _RANKED.items())
    text += _scaling(subject)
    return Said(text.rstrip(), tuple(_shares(subject)))


_RANKED: dict[str, Callable[[LayerCost | Total], int]] = {
    "forward FLOPs": lambda cost: cost.forward_flops or 0,
    "output bytes": lambda cost: cost.output_bytes,
    "parameters": lambda cost: cost.num_parameters,
}


def _most(
    kinds: Sequence[Total],
    layers: Sequence[LayerCost],
    name: str,
    of: Callable[[LayerCost | Total], int],
) -> str:
    """Which kind and which layer have the most of something; all that have as much."""
    if not any(map(of, layers)):
        return ""
    first_kinds = _first({kind.name: of(kind) for kind in kinds})
    first_layers = _first({layer.layer: of(layer) for layer in layers})
    return f"The most {name}, by kind: {first_kinds}; by layer: {first_layers}. "


def _first(amounts: dict[str, int]) -> str:
    most = max(amounts.values())
    names = [name for name, amount in amounts.items() if amount == most]
    each = " each" if len(names) > 1 else ""
    return f"{listed(names)}, {percent(most, sum(amounts.values()))}{each}"


def _scaling(subject: Subject) -> str:
    """The two convolutions with most FLOPs: what of their ratio is channels, what is positions."""
    convolutions = [
        (spec, cost)
        for cost in subject.base.account.costs.layers
        for spec in subject.base.spec.layers
        if spec.key == cost.layer and spec.kind in ("conv1d", "conv2d", "conv3d")
    ]
    if len(convolutions) < 2:
        return ""
    (last, _), (before, _) = convolutions[-1], convolutions[-2]
    channels, kernel, positions = (
        ratio(of(last), of(before)) for of in (_channels, _kernel_area, _positions)
    )
    product = ratio(_macs(last), _macs(before))
    return (
        "A convolution's FLOPs are 2 · positions · k² · C_in · C_out / groups, so they grow with "
        f"the product of the channels as with the number of positions: from {code(before.key)} to "
        f"{code(last.key)} the channels' product changes {channels:.4g}×, the positions "
        f"{positions:.4g}×, k² {kernel:.4g}×, and the FLOPs {product:.4g}×."
    )


def _channels(spec: LayerSpec) -> int:
    geometry = spec.geometry
    return geometry["in_channels"] * geometry["out_channels"] // geometry["groups"]


def _kernel_area(spec: LayerSpec) -> int:
    return prod(spec.geometry["kernel_size"])


def _positions(spec: LayerSpec) -> int:
    return spec.output_elements // spec.geometry["out_channels"]


def _macs(spec: LayerSpec) -> int:
    return _channels(spec) * _kernel_area(spec) * _positions(spec)


def _shares(subject: Subject) -> list[Figure]:
    """Per kind, as percent of the network's; bytes measured as the outputs that were recorded."""
    base, figures = subject.base, []
    recorded = None if base.counted is None else base.counted[0]
    total = base.textbook
    for kind in base.account.costs.by_kind():
        layers = {cost.layer for cost in base.account.costs.layers if cost.kind == kind.name}
        measured = None
        if recorded is not None:
            measured = sum(row.output_bytes for row in recorded.layers if row.layer in layers)
            measured = _percentage(measured, recorded.output_bytes)
        figures += [
            Figure(
                f"{kind.name}, of the forward FLOPs by the textbook",
                "%",
                _percentage(kind.forward_flops, total.forward_flops),
            ),
            Figure(
                f"{kind.name}, of the output bytes",
                "%",
                _percentage(kind.output_bytes, total.output_bytes),
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
    text = (
        "By the textbook the backward pass takes "
        f"{times(total.backward_flops, total.forward_flops)} the forward pass: convolutions and "
        "linear layers compute two gradients, of their input and of their weight, each as dear as "
        "the forward pass; the rest computes one."
    )
    if never:
        gradient = sum(cost.gradient_bytes for cost in missing)
        text += (
            f" The input's gradient in {listed([cost.layer for cost in missing])} is never "
            f"computed, since nothing asks for the image's: {count(never)} FLOPs "
            f"({percent(never, total.backward_flops)} of the backward pass) and {bytes_(gradient)} "
            "that the textbook counts and no machine spends. Without it the ratio is "
            f"{times(total.backward_flops - never, total.forward_flops)}; of convolutions and "
            f"linear layers alone {times(computed, predicted.forward_flops)}."
        )
    if twice:
        text += (
            f" The counter counts {count(twice)} FLOPs of grouped convolutions' weight gradients "
            "too often, each once for every group: predicted and measured contain them."
        )
    figures = (
        Figure("backward FLOPs by the textbook", "FLOPs", total.backward_flops),
        Figure(
            "backward against forward by the textbook",
            "×",
            ratio(total.backward_flops, total.forward_flops),
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


def _needs_no_input_gradient(subject: Subject, key: str) -> bool:
    calls = [spec for spec in subject.base.spec.layers if spec.key == key]
    return all(spec.inputs and not spec.inputs[0].requires_grad for spec in calls)


def _counted_too_often(subject: Subject) -> int:
    """Of grouped convolutions: a weight gradient for every group, as if there were one."""
    costs = {cost.layer: cost for cost in subject.base.account.costs.layers}
    return sum(
        (spec.geometry["groups"] - 1) * (costs[spec.key].weight_gradient_flops or 0)
        for spec in subject.base.spec.layers
        if spec.geometry.get("groups", 1) > 1 and spec.records_gradient
    )
