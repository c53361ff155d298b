"""What a network's figures mean, and what they become in each variant of it.

`predicted` is theory, the reasons that reconcile/ names, and the dry run; `measured` are the
instruments of measure/, on the variant itself, built and run.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import prod

import torch
from torch import nn

from layerscope.base.errors import UserError
from layerscope.base.formatting import bytes_exact
from layerscope.dry_run import Shape, dry_run
from layerscope.measure.optimizer_state import OptimizerState, optimizer_state
from layerscope.reconcile.settings import OPTIMIZERS
from layerscope.theory import LayerCost, Total
from layerscope.whatif.runs import (
    QUANTITIES,
    Run,
    VariantFigure,
    Weighted,
    skeleton,
    weighted_calls,
    weighted_layers,
)
from layerscope.whatif.variants import VARIANTS, Variant, run_variant, without_formula
from layerscope.whatif.words import code, code_list, percent_of, sizes, times

# A row of the table has these figures, in this order.
COLUMNS = tuple(name for name, _ in QUANTITIES.values())


@dataclass(frozen=True)
class Finding:
    """What is to be said of one matter.

    Args:
        text: Markdown; every number in it is computed.
    """

    title: str
    text: str
    figures: tuple[VariantFigure, ...] = ()


Says = Callable[[Run], tuple[str, tuple[VariantFigure, ...]]]


def analyse(
    network: nn.Module, input_shape: Shape, dtype: torch.dtype = torch.float32
) -> tuple[Finding, ...]:
    """Return all findings, in the order of the document. The network is copied and left as it was.

    Where one does not apply, or its variant cannot be built, the finding says why and has no
    figures. A variant that would take too long is run dry only.

    Args:
        input_shape: with the batch, (N, C, H, W).
        dtype: of network and input.

    Raises:
        UserError: the network does not run on this input, or cannot be copied.
    """
    with torch.inference_mode(False), torch.enable_grad():
        device = next((p.device for p in network.parameters()), torch.device("cpu"))
        base = Run(skeleton(network, dtype), input_shape, device)
        own = [_found(title, says, base) for title, says in _OF_THE_NETWORK.items()]
        return (*own, *(_found(v.title, _of_variant(v), base) for v in VARIANTS))


def _found(title: str, says: Says, base: Run) -> Finding:
    try:
        text, figures = says(base)
    except UserError as error:
        return Finding(title, f"Does not apply: {error}.")
    return Finding(title, text.strip() + _differing(figures), figures)


def _of_variant(variant: Variant) -> Says:
    def says(base: Run) -> tuple[str, tuple[VariantFigure, ...]]:
        changed, run = run_variant(variant, base)
        text = variant.says(base, changed, run) + _not_run(run)
        pairs = ((figure, figure.over(base.figures[q])) for q, figure in run.figures.items())
        figures = tuple(figure for pair in pairs for figure in pair)
        return text, (*figures, *variant.figures(base, changed, run))

    return says


def _not_run(run: Run) -> str:
    return f" It was not run: {run.too_large}." if run.too_large else ""


def _differing(figures: tuple[VariantFigure, ...]) -> str:
    """Say where the instruments found something else than was predicted."""
    differing = [
        f"{figure.name} by {figure.difference:+,} {figure.unit}"
        for figure in figures
        if figure.difference
    ]
    if not differing:
        return ""
    return f" Measured otherwise than predicted, and unexplained: {'; '.join(differing)}."


# the network itself -------------------------------------------------------------------------------


def _one_step(base: Run) -> tuple[str, tuple[VariantFigure, ...]]:
    total, figures = base.textbook, base.figures
    whole = total.output_bytes + total.gradient_bytes + total.parameter_gradient_bytes
    unknown = total.unknown
    missing = f", without those of {code_list(unknown)}, which are not known" if unknown else ""
    saved, peak = (
        bytes_exact(int(figures[name].predicted or 0))
        for name in ("saved_bytes", "live_peak_bytes")
    )
    text = (
        f"By the textbook's conventions a step takes {total.forward_flops:,} FLOPs forward and "
        f"{total.backward_flops:,} backward{missing}. When the forward pass ends, autograd saves "
        f"{saved}. At its peak the step holds {peak} above parameters, buffers and input (what an "
        "operation takes and gives back within itself is left out, here and below), where all "
        f"outputs, their gradients and the parameters' would add up to {bytes_exact(whole)}: what "
        "is saved and the gradients on the way are released once the backward pass used them."
    )
    return text + _not_run(base), tuple(figures.values())


_Amount = Callable[[LayerCost | Total], int]
_RANKED: dict[str, _Amount] = {
    "forward FLOPs": lambda cost: cost.forward_flops or 0,
    "output bytes": lambda cost: cost.output_bytes,
    "parameters": lambda cost: cost.num_parameters,
}


def _dominating(base: Run) -> tuple[str, tuple[VariantFigure, ...]]:
    costs, total = base.account.costs, base.textbook
    text = ""
    for name, amount in _RANKED.items():
        if name == "forward FLOPs" and total.lower_bound:
            text += f"Shares of the FLOPs are not known, since {without_formula(base)}. "
        elif amount(total):
            types = _first({each.name: amount(each) for each in costs.by_type()})
            layers = _first({each.layer: amount(each) for each in costs.layers})
            text += f"The most {name}, by type: {types}; by layer: {layers}. "
    measured = base.measured_by_layer("output_bytes") or {}
    figures: list[VariantFigure] = []
    for own in costs.by_type():
        share = None if total.lower_bound else _share(own.forward_flops, total.forward_flops)
        figures.append(
            VariantFigure(f"{own.name}, of the forward FLOPs by the textbook", "%", share)
        )
        layers = [cost.layer for cost in costs.layers if cost.type == own.name]
        seen = sum(measured.get(layer, 0) for layer in layers)
        share = _share(own.output_bytes, total.output_bytes)
        recorded = _share(seen, sum(measured.values()))
        figures.append(VariantFigure(f"{own.name}, of the output bytes", "%", share, recorded))
    return text + _channels_against_positions(base), tuple(figures)


def _share(part: int, whole: int) -> float | None:
    return 100 * part / whole if whole else None


def _first(amounts: dict[str, int]) -> str:
    most = max(amounts.values())
    names = [name for name, amount in amounts.items() if amount == most]
    each = " each" if len(names) > 1 else ""
    return f"{code_list(names)}, {percent_of(most, sum(amounts.values()))}{each}"


def _channels_against_positions(base: Run) -> str:
    """Compare two convolutions that follow each other, the last of which both differ, or either."""
    weighted = weighted_layers(base.account).values()
    convolutions = [each for each in weighted if len(each.weight_shape) > 2]
    pairs = [(_factors(a), _factors(b), a, b) for a, b in pairwise(convolutions)]
    for needed in (2, 1):
        for own, its, before, after in reversed(pairs):
            if (own[0] != its[0]) + (own[1] != its[1]) >= needed:
                channels, positions, window = (b / a for a, b in zip(own, its, strict=True))
                return (
                    "A convolution's FLOPs are 2 · positions · K · C_in · C_out / groups with K "
                    "weights in its window, so they grow with the product of the channels as with "
                    f"the number of positions: from {code(before.call.key)} to "
                    f"{code(after.call.key)} the channels' product changes {channels:.4g}×, the "
                    f"positions {positions:.4g}×, K {window:.4g}×, and the FLOPs "
                    f"{after.macs / before.macs:.4g}×."
                )
    return ""


def _factors(each: Weighted) -> tuple[int, int, int]:
    """Return the channels' product, how often each weight is used, and the window's weights."""
    shape = each.weight_shape
    return shape[0] * shape[1], each.uses, prod(shape[2:])


def _backward_against_forward(base: Run) -> tuple[str, tuple[VariantFigure, ...]]:
    total = base.textbook
    if not total.forward_flops:
        raise UserError("no layer's FLOPs are known")
    missing = base.reasons("backward_flops", "no_input_gradient")
    again = sum(base.reasons("backward_flops", "grouped_weight_gradient").values())
    never = -sum(missing.values())
    forward, backward = (base.figures[f"{name}_flops"] for name in ("forward", "backward"))
    ratio = times(total.backward_flops, total.forward_flops)
    among = f" in the layers whose FLOPs are known ({without_formula(base)})"
    text = (
        f"By the textbook the backward pass takes {ratio} the forward pass"
        f"{among if total.lower_bound else ''}: convolutions and matrix products compute two "
        "gradients, of their input and of their weight, and each costs as much as the forward "
        "pass; the rest computes one."
    )
    if never:
        gradient = sum(base.account.layers[layer].gradient_bytes for layer in missing)
        part = f", {percent_of(never, total.backward_flops)} of the backward pass,"
        text += (
            f" The input's gradient in {code_list(missing)} is never computed, since nothing "
            f"before needs one: {never:,} FLOPs{'' if total.lower_bound else part} and "
            f"{bytes_exact(gradient)} that the textbook counts and no machine spends."
        )
        if not total.lower_bound:
            without = times(total.backward_flops - never, total.forward_flops)
            text += f" Without it the ratio is {without}."
    if forward.predicted and backward.predicted is not None:
        ratio = times(backward.predicted - again, forward.predicted)
        text += f" Of convolutions and matrix products alone, as they are computed, it is {ratio}."
    if again:
        text += (
            f" The counter counts {again:,} FLOPs of grouped convolutions' weight gradients too "
            "often, each once for every group: predicted and measured contain them."
        )
    own = None if total.lower_bound else total.backward_flops
    ratio = None if own is None else own / total.forward_flops
    between = backward.over(forward)
    return text, (
        VariantFigure("backward FLOPs by the textbook", "FLOPs", own),
        VariantFigure("backward against forward by the textbook", "×", ratio),
        backward,
        VariantFigure(
            "backward against forward, of these", "×", between.predicted, between.measured
        ),
        VariantFigure("gradient of the image, never computed", "FLOPs", never),
    )


def _parameter_efficiency(base: Run) -> tuple[str, tuple[VariantFigure, ...]]:
    weighted = [*weighted_calls(base.account)]
    if not weighted:
        raise UserError("no layer multiplies by weights")
    last, batch = weighted[-1].call, base.input_shape[0]
    inputs, features = prod(base.input_shape[1:]), prod(last.input_shape) // batch
    parameters = inputs * features + features
    built = sum(p.numel() for p in nn.Linear(inputs, features, device="meta").parameters())
    own = base.figures["num_parameters"]
    tensors = {t.storage: t for t in (e.unit.invocation.arguments["weight"] for e in weighted)}
    weights = sum(tensor.num_elements for tensor in tensors.values())
    products = sum(each.macs for each in weighted)
    flops = sum(each.unit.costs.counts["forward_flops"] or 0 for each in weighted)
    meets = ", since a weight of a convolution meets every position"
    text = (
        f"One fully connected layer from the flattened input ({sizes(base.input_shape[1:])} = "
        f"{inputs:,} values) to as many features as {code(last.key)} reads, {features:,}, takes "
        f"{inputs:,} · {features:,} + {features:,} = {parameters:,} parameters, "
        f"{times(parameters, own.predicted or 1)} all {own.predicted:,} of this network. It uses "
        f"each of its weights once for an image, {2 * batch * inputs * features:,} FLOPs for the "
        f"batch; this network uses the {weights:,} weights of its convolutions and linear layers "
        f"{times(products, batch * weights)} on average"
        f"{meets if products > batch * weights else ''}: {flops:,} FLOPs."
    )
    figure = VariantFigure(
        f"fully connected, {inputs:,} to {features:,}", "parameters", parameters, built
    )
    return text, (figure, own, figure.over(own))


# optimizers ---------------------------------------------------------------------------------------

_NAMES = {"sgd": "SGD", "momentum": "SGD with momentum", "adam": "Adam"}


def _optimizers(base: Run) -> tuple[str, tuple[VariantFigure, ...]]:
    learning = [p for p in base.network.parameters() if p.requires_grad]
    if not learning:
        raise UserError("no parameter of it learns")
    states: dict[str, VariantFigure] = {}
    peaks: dict[str, VariantFigure] = {}
    passing = VariantFigure("", "B", 0)
    # A number by which torch multiplies or divides becomes a float64, and one of the tensor's dtype
    # from that: below the dispatcher, where no dry run sees it.
    wrapped = 8 + base.dtype.itemsize if base.dry.device.type == "cpu" else 0
    standing = sum(
        t.nbytes for t in (*base.network.parameters(), *base.network.buffers(), base.image)
    )
    gradients, peak = sum(p.nbytes for p in learning), base.figures["live_peak_bytes"]
    for name, label in _NAMES.items():
        run = dry_run(base.network, (base.image,), optimizer=OPTIMIZERS[name])
        update = max(run.live_after[run.second_optimizer_step :], default=0) - run.state_bytes
        update += wrapped if run.state_bytes else 0
        record = _record(base, name)
        seen = None if record is None else record.state_bytes + record.counter_bytes
        whole = None
        if record is not None and seen is not None and peak.measured is not None:
            whole = standing + seen + max(peak.measured, gradients + record.temporary_bytes)
        states[name] = VariantFigure(f"{label}: state", "B", run.state_bytes, seen)
        title = f"{label}: the whole step's peak, with parameters, buffers, input and state"
        predicted = standing + run.state_bytes + max(run.live_peak_bytes, update)
        peaks[name] = VariantFigure(title, "B", predicted, whole)
        title = f"{label}: in passing, beside gradients and state"
        passing = VariantFigure(title, "B", update - gradients, record and record.temporary_bytes)
    state, before, after = (f.predicted or 0 for f in (states["adam"], peaks["sgd"], peaks["adam"]))
    one = states["momentum"].predicted or 0
    text = (
        "SGD keeps nothing between its steps, momentum one number for each parameter that learns, "
        f"Adam two, and counts its steps: {bytes_exact(int(one))} and {bytes_exact(int(state))} "
        f"beside {bytes_exact(base.dry.parameter_bytes)} of parameters. The step's memory is not "
        "tripled, since activations and gradients have no such state: "
        f"with all there is, the peak goes from {bytes_exact(int(before))} to "
        f"{bytes_exact(int(after))}, {times(after, before)}, and Adam's state is "
        f"{percent_of(state, after)} of it. While it updates one parameter, Adam takes two copies "
        "of it in passing; the last copy of the parameter before is still held, and a number that "
        f"it divides by takes {wrapped} B."
    )
    return text, (*(f for name in _NAMES for f in (states[name], peaks[name])), passing)


def _record(base: Run, name: str) -> OptimizerState | None:
    if base.too_large:
        return None
    with base.step.preserve_state():
        learning = [p for p in base.network.parameters() if p.requires_grad]
        for parameter in learning:
            parameter.grad = torch.zeros_like(parameter)
        return optimizer_state(OPTIMIZERS[name](learning))


_OF_THE_NETWORK: dict[str, Says] = {
    "This network": _one_step,
    "Where the FLOPs, the memory and the parameters are": _dominating,
    "Backward against forward": _backward_against_forward,
    "Parameters against a fully connected layer": _parameter_efficiency,
    "What the optimizer adds": _optimizers,
}
