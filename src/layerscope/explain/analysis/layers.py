"""What other layers would cost in the place of a network's own."""

from math import prod

from torch import nn

from layerscope.errors import UserError
from layerscope.explain.analysis.findings import (
    Figure,
    Said,
    Subject,
    bytes_,
    code,
    count,
    figures_of,
    forward_flops,
    percent,
    ratio,
    remarks,
    times,
)
from layerscope.explain.analysis.variants import flattened, separable
from layerscope.layers import LayerSpec

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
        f"{count(features)} = {count(parameters)} parameters, {times(parameters, own)} all "
        f"{count(own)} of this network. It uses each of "
        f"its weights once for an image, {count(flops)} FLOPs for the batch; this network uses its "
        f"own {times(base.textbook.macs, batch * (own or 0))} on average, since a convolution's "
        f"weights meet every position: {count(base.predicted.forward_flops)} FLOPs."
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


def _product(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def global_pooling(subject: Subject) -> Said:
    """What the head would cost if it read the maps themselves."""
    base = subject.base
    pooling = _global_pooling(subject)
    run = subject.run(flattened(subject.network, pooling.key, subject.input_shape))
    _same_outputs(subject, run.spec.outputs[0].shape)
    saved = (run.predicted.num_parameters or 0) - (base.predicted.num_parameters or 0)
    more_flops = (run.predicted.forward_flops or 0) - (base.predicted.forward_flops or 0)
    maps = prod(pooling.input_shape[1:])
    figures = figures_of(
        run, "num_parameters", "forward_flops", "saved_bytes", "peak_bytes", base=base
    )
    text = (
        f"{code(pooling.key)} makes {count(pooling.output_shape[1])} features of "
        f"{_product(pooling.input_shape[1:])} = {count(maps)} values. If the next layer read these "
        f"instead, the network would have {count(run.predicted.num_parameters)} parameters: global "
        f"average pooling saves {count(saved)}, {percent(saved, run.predicted.num_parameters)} of "
        f"them. It saves {count(more_flops)} forward FLOPs of {count(run.predicted.forward_flops)} "
        f"in convolutions and linear layers, and takes {count(_forward(subject, pooling.key))} "
        "additions for itself."
    )
    return Said(text + remarks(run, figures), figures)


def _global_pooling(subject: Subject) -> LayerSpec:
    modules = dict(subject.network.named_modules())
    for spec in reversed(subject.base.spec.layers):
        if spec.kind == "adaptive_avg_pool" and spec.key in modules:
            if prod(spec.output_shape[2:]) == 1 and prod(spec.input_shape[2:]) > 1:
                return spec
            break
    raise UserError("no layer of it averages each map to one value")


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
        "Each k×k convolution as a depthwise one and a 1×1 one behind it computes "
        "k²·C_in·C_out / (C_in·(k² + C_out)) = k²·C_out / (k² + C_out) times fewer FLOPs, which "
        f"nears k² only where C_out is large: {gains}{more}; {times(before, after)} in all of "
        "them. "
        f"The whole forward pass takes {count(changed)} FLOPs instead of {count(own)}, "
        f"{times(own, changed)} fewer, since the other layers stay as they are; the parameters "
        f"become {count(run.predicted.num_parameters)}, "
        f"{times(base.predicted.num_parameters, run.predicted.num_parameters)} fewer. What lies "
        "between the two is kept for backward too: "
        f"{bytes_(run.predicted.saved_bytes)} instead of {bytes_(base.predicted.saved_bytes)}. "
        "What it does to the accuracy, no formula says."
    )
    return Said(text + remarks(run, tuple(figures)), tuple(figures))
