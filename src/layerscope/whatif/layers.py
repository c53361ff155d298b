"""What other layers would cost in the place of a network's own."""

from math import prod

from torch import nn

from layerscope.errors import UserError
from layerscope.networks.layer_calls import DescribedCall
from layerscope.whatif.findings import (
    Figure,
    Said,
    Subject,
    compared,
    figures_of,
    forward_flops,
    remarks,
    without_formula,
)
from layerscope.whatif.variant_runs import VariantRun
from layerscope.whatif.variants import flattened, separable
from layerscope.whatif.words import bytes_, code, count, fewer, percent, ratio, times

_NO_WEIGHTS = "no layer multiplies by weights"


def parameter_efficiency(subject: Subject) -> Said:
    """A fully connected layer from the image to the last features."""
    base, last = subject.base, subject.last
    if last is None:
        raise UserError(_NO_WEIGHTS)
    batch = subject.input_shape[0]
    inputs = prod(subject.input_shape[1:])
    features = prod(last.input_shape) // batch
    parameters = inputs * features + features
    built = nn.Linear(inputs, features, device="meta")
    measured = sum(parameter.numel() for parameter in built.parameters())
    own = base.predicted.num_parameters
    flops = 2 * batch * inputs * features
    text = (
        "One fully connected layer from the flattened input "
        f"({_product(subject.input_shape[1:])} = {count(inputs)} values) to as many features as "
        f"{code(last.key)} reads, {count(features)}, takes {count(inputs)} · {count(features)} + "
        f"{count(features)} = {count(parameters)} parameters, {times(parameters, own or 1)} all "
        f"{count(own or 0)} of this network. It uses each of its weights once for an image, "
        f"{count(flops)} FLOPs for the batch{_own_use(base, batch)}."
    )
    figures = (
        Figure(f"fully connected, {inputs:,} to {features:,}", "parameters", parameters, measured),
        *figures_of(base, "num_parameters"),
        Figure(
            "fully connected against this network",
            "×",
            ratio(parameters, own),
            ratio(measured, base.measured.num_parameters),
        ),
    )
    return Said(text, figures)


def _own_use(base: VariantRun, batch: int) -> str:
    """How often the network uses each of the weights of its convolutions and linear layers."""
    weights: dict[int, int] = {}
    products = flops = 0
    kinds: set[str] = set()
    for spec in base.spec.layers:
        weight, used = spec.parameters.get("weight"), base.textbook_of(spec, "macs")
        if weight is not None and used:
            weights[weight.storage] = weight.num_elements
            products += used
            flops += base.textbook_of(spec, "forward_flops")
            kinds.add(spec.kind)
    if not weights:
        return ""
    why = ", since a convolution's weights meet every position" if kinds - {"linear"} else ""
    return (
        f"; this network uses the {count(sum(weights.values()))} weights of its convolutions and "
        f"linear layers {times(products, batch * sum(weights.values()))} on average{why}: "
        f"{count(flops)} FLOPs"
    )


def _product(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def global_pooling(subject: Subject) -> Said:
    """What the head would cost if it read the maps themselves."""
    base = subject.base
    pooling = _global_pooling(subject)
    run = subject.run(flattened(subject.network, pooling.key, subject.input_shape))
    _same_outputs(subject, run.spec.outputs[0].shape)
    its = run.predicted.num_parameters or 0
    saved = its - (base.predicted.num_parameters or 0)
    maps = prod(pooling.input_shape[1:])
    figures = figures_of(
        run, "num_parameters", "forward_flops", "saved_bytes", "peak_bytes", base=base
    )
    text = (
        f"{code(pooling.key)} makes {count(pooling.output_shape[1])} features of "
        f"{_product(pooling.input_shape[1:])} = {count(maps)} values. If the next layer read these "
        f"instead, the network would have {count(its)} parameters: global average pooling saves "
        f"{count(saved)}, {percent(saved, its)} of them."
    )
    flops, own = run.predicted.forward_flops, base.predicted.forward_flops
    additions = _forward(subject, pooling.key)
    if flops is not None and own is not None and additions is not None:
        text += (
            f" It saves {count(flops - own)} forward FLOPs of {count(flops)} in convolutions and "
            f"linear layers, and takes {count(additions)} FLOPs of its own."
        )
    return Said(text + remarks(run, figures), figures)


def _global_pooling(subject: Subject) -> DescribedCall:
    modules = dict(subject.network.named_modules())
    found = [spec for spec in subject.base.spec.layers if _averages_maps(spec)]
    if not found:
        raise UserError("no pooling layer and no mean of it makes one value of each map")
    last = found[-1]
    if last.key not in modules:
        raise UserError(
            f"{code(last.key)} makes one value of each map, but it is a call in the network's "
            "forward and no module, which could be taken out"
        )
    return last


def _averages_maps(spec: DescribedCall) -> bool:
    """Tell whether it makes one value of each map of (N, C, ...)."""
    if spec.kind not in ("adaptive_avg_pool", "avg_pool", "mean") or not spec.inputs:
        return False
    before, after = spec.input_shape, spec.output_shape
    is_one = prod(before[2:]) > 1 and prod(after[2:]) == 1
    return is_one and len(after) >= 2 and before[:2] == after[:2]


def _forward(subject: Subject, key: str) -> int | None:
    return next(c for c in subject.base.account.costs.layers if c.layer == key).forward_flops


def _same_outputs(subject: Subject, shape: tuple[int, ...]) -> None:
    own = subject.base.spec.outputs[0].shape
    if shape != own:
        raise UserError(f"it would return {tuple(shape)} instead of {own}")


def depthwise_separable(subject: Subject) -> Said:
    """Every convolution in two steps: space, then channels."""
    base = subject.base
    variant, paths = separable(subject.network)
    run = subject.run(variant)
    used = [path for path in paths if base.forward_flops_below(path)[0]]
    if not used:
        raise UserError("no convolution with a window larger than 1 runs")
    pairs = {path: (base.forward_flops_below(path), run.forward_flops_below(path)) for path in used}
    figures = [
        Figure(f"{path}, FLOPs saved", "×", ratio(old[0], new[0]), ratio(old[1], new[1]))
        for path, (old, new) in pairs.items()
    ]
    before, after = (sum(pair[at][0] for pair in pairs.values()) for at in (0, 1))
    own, changed = forward_flops(base), forward_flops(run)
    figures += [
        Figure("forward FLOPs of the network by the textbook", "FLOPs", changed),
        Figure("forward FLOPs of the network by the textbook, saved", "×", ratio(own, changed)),
        *figures_of(run, "forward_flops", "num_parameters", "saved_bytes", base=base),
    ]
    gains = ", ".join(
        f"{times(old[0], new[0])} in {code(path)}" for path, (old, new) in [*pairs.items()][:6]
    )
    more = f" and {len(pairs) - 6} more" if len(pairs) > 6 else ""
    text = (
        "Each convolution with a larger window than 1×1 and without groups, as a depthwise one "
        "and a 1×1 one behind it, computes "
        "K·C_in·C_out / (C_in·(K + C_out)) = K·C_out / (K + C_out) times fewer FLOPs, with K "
        f"weights in its window (9 of 3×3), which nears K only where C_out is large: {gains}{more}"
        f"; {times(before, after)} in all of them. {_whole_pass(base, run)}"
    )
    parameters = (base.predicted.num_parameters or 0, run.predicted.num_parameters or 0)
    text += f"The parameters become {count(parameters[1])}, {fewer(*parameters)}. "
    if (kept := compared(base, run, "saved_bytes")) is not None:
        text += (
            "What lies between the two is kept for backward too: "
            f"{kept.bytes_} instead of {bytes_(kept.own)}. "
        )
    text += "What it does to the accuracy, no formula says."
    return Said(text + remarks(run, tuple(figures)), tuple(figures))


def _whole_pass(base: VariantRun, run: VariantRun) -> str:
    own, changed = forward_flops(base), forward_flops(run)
    if own is None or changed is None:
        return f"What that is of the whole forward pass is not known: {without_formula(base)}. "
    return (
        f"The whole forward pass takes {count(changed)} FLOPs instead of {count(own)}, "
        f"{fewer(own, changed)}, since the other layers stay as they are. "
    )
