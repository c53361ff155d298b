"""The one list of variants of a network and of its step, and what is to be said of each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from math import prod

import torch
from torch import nn

from layerscope.base.errors import UserError
from layerscope.base.formatting import bytes_exact
from layerscope.dry_run import LayerCall, Shape
from layerscope.operations import Window, updates_statistics, window_of
from layerscope.operations.shapes import conv_output_size
from layerscope.reconcile.account import Account
from layerscope.whatif import surgery
from layerscope.whatif.runs import Run, VariantFigure, is_below, weighted_layers
from layerscope.whatif.surgery import Changed
from layerscope.whatif.words import code, code_list, enumerated, percent_of, shortened, sizes, times


@dataclass(frozen=True)
class Variant:
    """A change of a network or of its step.

    A study of other factors replaces `change`: `partial(widened, factor=Fraction(1, 4))`.

    Args:
        name: what a study of it is called.
        title: as a heading.
        change: makes the changed network from the network and what is known of it; raises UserError
            where it does not apply.
        says: what the figures alone do not tell, in Markdown, of the network's run and the
            variant's.
        figures: of the variant alone, beside those that every variant has.
    """

    name: str
    title: str
    change: Callable[[nn.Module, Account], Changed]
    says: Callable[[Run, Changed, Run], str]
    figures: Callable[[Run, Changed, Run], tuple[VariantFigure, ...]] = lambda *_: ()


def run_variant(variant: Variant, base: Run) -> tuple[Changed, Run]:
    """Change a network and run it dry; its figures are measured when they are asked for.

    Raises:
        UserError: the variant does not apply, does not run, or answers another question.
    """
    changed = variant.change(base.network, base.account)
    try:
        run = Run(changed.network, changed.input_shape, base.dry.device)
    except UserError as error:  # its text is the framework's
        raise UserError("the network so changed does not run on this machine") from error
    own, its = ([tensor.shape for tensor in each.dry.outputs] for each in (base, run))
    if own != its:
        raise UserError(
            f"it would return {', '.join(map(str, its))} instead of {', '.join(map(str, own))}"
        )
    return changed, run


# sentences ----------------------------------------------------------------------------------------


def _predicted(run: Run, quantity: str) -> int:
    return int(run.figures[quantity].predicted or 0)


def _below(amounts: Mapping[str, int] | None, path: str) -> int:
    return sum(amount for layer, amount in (amounts or {}).items() if is_below(layer, path))


def _of_head(base: Run, changed: Changed, run: Run) -> str:
    ((key,),) = changed.parts
    call = base.account.calls[key][0]
    maps = prod(call.input_shape[1:])
    own, its = (_predicted(each, "num_parameters") for each in (base, run))
    additions = base.account.layers[key].forward_flops
    takes = "" if additions is None else f" The pooling takes {additions:,} FLOPs of its own."
    return (
        f"{code(key)} makes {call.output_shape[1]:,} features of {sizes(call.input_shape[1:])} = "
        f"{maps:,} values. If the next layer read these instead, the network would have {its:,} "
        f"parameters: the pooling saves {its - own:,}, {percent_of(its - own, its)} of them.{takes}"
    )


def _of_separable(base: Run, changed: Changed, run: Run) -> str:
    pairs = {
        path: tuple(_below(each.by_layer("forward_flops"), path) for each in (base, run))
        for (path,) in changed.parts
    }
    gains = [f"{times(*pair)} in {code(path)}" for path, pair in pairs.items()]
    before, after = (sum(pair[at] for pair in pairs.values()) for at in (0, 1))
    text = (
        "Each convolution with a larger window than 1×1 and without groups, as a depthwise one "
        "and a 1×1 one behind it, computes K·C_in·C_out / (C_in·(K + C_out)) = "
        "K·C_out / (K + C_out) times fewer FLOPs, with K weights in its window (9 of 3×3), which "
        f"nears K only where C_out is large: {shortened(gains)}; {times(before, after)} in all of "
        "them. "
    )
    own, its = base.textbook, run.textbook
    if own.lower_bound or its.lower_bound:
        text += f"What that is of the whole forward pass is not known: {without_formula(base)}. "
    else:
        text += (
            f"The whole forward pass takes {its.forward_flops:,} FLOPs instead of "
            f"{own.forward_flops:,}, {times(own.forward_flops, its.forward_flops)} fewer, since "
            "the other layers stay as they are. "
        )
    return text + (
        "What lies between the two is saved for backward too. What it does to the accuracy, no "
        "formula says."
    )


def _gains(base: Run, changed: Changed, run: Run) -> tuple[VariantFigure, ...]:
    """Say how many times fewer FLOPs each separated convolution takes."""
    predicted, measured = (
        [amounts(each, "forward_flops") for each in (base, run)]
        for amounts in (Run.by_layer, Run.measured_by_layer)
    )
    figures = []
    for (path,) in changed.parts:
        pairs = ([_below(each, path) for each in kind] for kind in (predicted, measured))
        ratios = (own / its if own and its else None for own, its in pairs)
        figures.append(VariantFigure(f"{path}, FLOPs saved", "×", *ratios))
    return tuple(figures)


def without_formula(run: Run) -> str:
    """Say whose FLOPs are not known: `a` and `b` have no formula."""
    types = run.textbook.unknown
    return f"{code_list(types)} {'has' if len(types) == 1 else 'have'} no formula"


def _of_precision(base: Run, changed: Changed, run: Run) -> str:
    name = str(run.dtype).removeprefix("torch.")
    text = f"In {name} an element takes {run.dtype.itemsize} B instead of {base.dtype.itemsize} B. "
    indices = sum(run.reasons("saved_bytes", "indices").values())
    before, after = (_predicted(each, "saved_bytes") for each in (base, run))
    if indices and after != indices:
        text += (
            f"Max pooling's indices are int64 in any precision, {bytes_exact(indices)} of what is "
            f"saved, which shrinks {times(before, after)}; without them it would shrink "
            f"{times(before - indices, after - indices)}. "
        )
    return text + (
        "The FLOPs stay; their speed is the machine's. This is the network itself in "
        f"{name}; under autocast parameters and their gradients stay as they are, and copies of "
        "the weights come on top."
    )


def _of_checkpoints(base: Run, changed: Changed, run: Run) -> str:
    shown = [
        code(part[0]) if len(part) == 1 else f"{code(part[0])} to {code(part[-1])}"
        for part in changed.parts
    ]
    are_runs = any(len(part) > 1 for part in changed.parts)
    paths = [str(n) if are_runs else part[0] for n, part in enumerate(changed.parts)]
    text = (
        f"With a checkpoint around {'runs of its layers, ' if are_runs else ''}{shortened(shown)}, "
        "autograd saves what goes into each and computes the rest again when its backward pass "
        f"begins: {bytes_exact(_predicted(run, 'saved_bytes'))} instead of "
        f"{bytes_exact(_predicted(base, 'saved_bytes'))}. "
    )
    flops, forward = run.by_layer("forward_flops"), _predicted(base, "forward_flops")
    again = sum(_below(flops, path) for path in paths)
    if forward:
        text += (
            f"The price is {again:,} FLOPs of convolutions and matrix products, "
            f"{percent_of(again, forward)} of the forward pass, a second time in every step. "
        )
    moments = [moment for moment in run.dry.timeline if moment.phase != "optimizer"]
    peak = max(moments, key=lambda moment: moment.live_bytes)
    inside = next((n for n, path in enumerate(paths) if is_below(peak.layer, path)), None)
    layer = peak.layer.partition(".")[2] if are_runs and inside is not None else peak.layer
    text += f"The peak is reached in {code(layer)}, {peak.phase}"
    if inside is not None and peak.phase == "backward":
        text += (
            f": while the gradients of {shown[inside]} are computed, all that is inside is there "
            "again"
        )
    if any(updates_statistics(op) and op.is_recomputed for op in run.dry.operations):
        text += ". Batch norm updates its running statistics twice, once in each forward pass"
    return f"{text}."


def _of_width(base: Run, changed: Changed, run: Run) -> str:
    own, its = (_predicted(each, "num_parameters") for each in (base, run))
    weighted, regrown = weighted_layers(base.account), _regrown(base, run)
    slow = [layer for layer, factor in regrown.items() if layer in weighted and factor <= 2]
    depthwise = [layer for layer in slow if weighted[layer].is_depthwise]
    one_side = [layer for layer in slow if layer not in depthwise]
    text = (
        f"The parameters grow from {own:,} to {its:,}, {times(its, own)}. The weights of a layer "
        "grow four times only where both its inputs and its outputs double. "
    )
    if one_side:
        text += (
            f"Those of {code_list(one_side)} double on one side alone: the image keeps its "
            "channels and the network its outputs. "
        )
    if depthwise:
        text += (
            f"Each filter of {code_list(depthwise)} sees one channel, and there are twice as many. "
        )
    return f"{text}Norms, activations, pooling and biases between them just double."


def _regrown(base: Run, run: Run) -> dict[str, float]:
    """Return the layers whose parameters changed in number, and by which factor."""
    own = {layer: cost.num_parameters for layer, cost in base.account.layers.items()}
    return {
        layer: cost.num_parameters / own[layer]
        for layer, cost in run.account.layers.items()
        if own.get(layer) and cost.num_parameters != own[layer]
    }


def _of_depth(base: Run, changed: Changed, run: Run) -> str:
    ((*names,),) = changed.parts
    new = [cost for layer, cost in run.account.layers.items() if layer not in base.account.layers]
    parameters, flops = (sum(c.num_parameters for c in new), [c.forward_flops for c in new])
    takes = "" if None in flops else f" and takes {sum(f or 0 for f in flops):,} FLOPs forward"
    block = " … ".join(dict.fromkeys((names[0], names[-1])))
    text = (
        f"A copy of {code(block)} behind it, from {new[0].input_shapes[0][1]} to "
        f"{new[-1].output_shapes[0][1]} channels, has {parameters:,} parameters{takes}. "
    )
    own, its = (_predicted(each, "num_parameters") for each in (base, run))
    if (changing := _regrown(base, run)) and its - own != parameters:
        text += (
            f"The layers behind it that read more or fewer features, {code_list(changing)}, change "
            f"by {its - own - parameters:+,} parameters, so that the network has {its:,}."
        )
    return text.rstrip()


def _of_resolution(base: Run, changed: Changed, run: Run) -> str:
    before, after = base.input_shape[2:], changed.input_shape[2:]
    factor = prod(after) // prod(before)
    own, its = (_predicted(each, "num_parameters") for each in (base, run))
    regrown = _regrown(base, run)
    text = f"From {sizes(before)} to {sizes(after)} there are {factor} times as many positions. "
    if regrown:
        how = "more" if min(regrown.values()) > 1 else "another number of"
        reads = "reads" if len(regrown) == 1 else "read"
        grown = f"{its:,}, {times(its, own)}"
        text += f"The parameters become {grown}: {code_list(regrown)} {reads} {how} features. "
    else:
        text += f"The parameters do not change: {own:,}. "
    whose = "The step's FLOPs"
    if base.textbook.lower_bound:
        whose += f", but for those that are not known since {without_formula(base)},"
    why = partial(_why_flops, base, run)
    text += _split(whose, "are", "", _work(base), _work(run), factor, why)
    own, its = (each.by_layer("saved_bytes") for each in (base, run))
    text += _split("What autograd saves", "is", " B", own, its, factor, _why_saved)
    return (text + _where_it_begins(base, run, after[0] // before[0])).rstrip()


def _work(run: Run) -> dict[str, int]:
    """Return forward and backward FLOPs by the textbook, of the layers where they are known."""
    return {
        layer: cost.forward_flops + cost.backward_flops
        for layer, cost in run.account.layers.items()
        if cost.forward_flops is not None and cost.backward_flops is not None
    }


def _why_flops(base: Run, run: Run, layer: str, same: bool) -> str:
    if same:
        return "whose work is the same at both resolutions"
    weighted = (weighted_layers(each.account).get(layer) for each in (base, run))
    own, its = (each and prod(each.weight_shape[1:]) for each in weighted)
    if own and its and own != its:
        return f"which reads {its:,} features instead of {own:,}"
    return "whose sizes are not in proportion to the image's"


def _why_saved(layer: str, same: bool) -> str:
    if same:
        return "which take as much at both resolutions"
    return "whose sizes are not in proportion"


def _split(
    whose: str,
    verb: str,
    unit: str,
    own: Mapping[str, int],
    its: Mapping[str, int],
    factor: int,
    why: Callable[[str, bool], str],
) -> str:
    """Say what an amount is beside `factor` times as much, in layers that add up to it."""
    before, after = sum(own.values()), sum(its.values())
    pairs = {layer: (own.get(layer, 0), its.get(layer, 0)) for layer in {**own, **its}}
    groups: dict[str, list[str]] = {}
    for layer, (small, large) in pairs.items():
        if large != factor * small:
            groups.setdefault(why(layer, small == large), []).append(layer)
    if not groups:
        return f"{whose} {verb} exactly {factor}× as much in every layer. " if before else ""
    parts = [
        f"{sum(pairs[layer][1] - factor * pairs[layer][0] for layer in layers):+,}{unit} in "
        f"{shortened([_grown(layer, *pairs[layer]) for layer in layers])}, {reason}"
        for reason, layers in groups.items()
    ]
    return (
        f"{whose} {verb} {after:,}{unit}, {factor} times {before:,}{unit} and "
        f"{after - factor * before:+,}{unit}: {'; '.join(parts)}. "
    )


def _grown(layer: str, before: int, after: int) -> str:
    """Name a layer, with its own factor."""
    return code(layer) + (f" ({times(after, before)})" if before and after != before else "")


def _where_it_begins(base: Run, run: Run, factor: int) -> str:
    """Name the layers that get maps in proportion and put out others, and what of them does it."""
    begins, fixed = [], []
    for layer, (own, *_) in base.account.calls.items():
        its = run.account.calls.get(layer, (own,))[0]
        shapes = [call.input_shape for call in (own, its) if call.inputs]
        shapes += [call.output_shape for call in (own, its)]
        if len(shapes) < 4 or {len(shape) for shape in shapes} not in ({3}, {4}, {5}):
            continue
        before, after, out_before, out_after = (shape[2:] for shape in shapes)
        window = _window(base, own)
        if window is None and before != after and out_before == out_after:
            fixed.append(f"{code(layer)} puts out {sizes(out_before)} for both")
        elif after == _scaled(before, factor) and out_after != _scaled(out_before, factor):
            ways = f"{sizes(before)} → {sizes(out_before)} but {sizes(after)} → {sizes(out_after)}"
            begins.append(f"{code(layer)}, {ways}{_cause(window, before, after)}")
    text = f"The sizes leave the proportion first in {'; '.join(begins[:3])}. " if begins else ""
    return text + (f"{enumerated(fixed[:3])}." if fixed else "")


def _scaled(shape: Shape, factor: int) -> Shape:
    return tuple(factor * size for size in shape)


def _window(base: Run, call: LayerCall) -> Window | None:
    """Return the window of a call whose output has the size that the formula gives."""
    for unit in base.account.units_by_call.get(call.number, ()):
        window = window_of(unit.invocation)
        if window is not None:
            settings = (window.kernel_size, window.stride, window.padding, window.dilation)
            columns = zip(call.input_shape[2:], *settings, strict=True)
            fits = tuple(conv_output_size(*column) for column in columns)
            return window if fits == call.output_shape[2:] else None
    return None


def _cause(window: Window | None, before: Shape, after: Shape) -> str:
    """Say what of the output's size, as `conv_output_size` has it, is not in proportion."""
    if window is None:
        return ""
    settings = zip(
        before, after, window.kernel_size, window.stride, window.padding, window.dilation,
        strict=True,
    )  # fmt: skip
    border = rounded = False
    for small, large, kernel, stride, padding, dilation in settings:
        extra = 2 * padding - dilation * (kernel - 1) - 1 + stride
        border |= extra != 0
        rounded |= (large + extra) % stride != (large // small) * ((small + extra) % stride)
    reasons = ["2 · padding is not dilation · (k − 1) + 1 − stride"] if border else []
    reasons += ["the division by the stride is rounded"] if rounded else []
    return f" ({enumerated(reasons)})" if reasons else ""


_HALF = partial(surgery.lowered, dtype=torch.bfloat16)
_LARGER = partial(surgery.enlarged, factor=2)
_WIDER = partial(surgery.widened, factor=Fraction(2))

VARIANTS = (
    Variant("head", "Global pooling against a flatten head", surgery.flattened, _of_head),
    Variant(
        "depthwise", "Depthwise separable convolutions", surgery.separable, _of_separable, _gains
    ),
    Variant("precision", "Half precision", _HALF, _of_precision),
    Variant("checkpointing", "Checkpointing", surgery.checkpointed, _of_checkpoints),
    Variant("resolution", "Twice the resolution", _LARGER, _of_resolution),
    Variant("width", "Twice the channels", _WIDER, _of_width),
    Variant("depth", "One more block", surgery.deepened, _of_depth),
)
