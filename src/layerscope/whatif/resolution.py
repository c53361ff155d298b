"""What a network costs at twice the resolution, and why that is not simply four times as much."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from layerscope.errors import UserError
from layerscope.networks.layer_calls import DescribedCall
from layerscope.whatif.findings import Said, Subject, without_formula
from layerscope.whatif.proportion import joined_sizes, where_it_begins
from layerscope.whatif.scaling import (
    checked,
    growth,
    layers_with_other_parameters,
    said_of,
)
from layerscope.whatif.variant_runs import VariantRun
from layerscope.whatif.variants import fitted, skeleton
from layerscope.whatif.words import code, count, joined, listed, shortened, times


def double_resolution(subject: Subject) -> Said:
    """Images twice as high and twice as wide."""
    batch, channels, *sizes = subject.input_shape
    if not sizes:
        raise UserError("its input has no height and no width")
    shape = (batch, channels, *(2 * size for size in sizes))
    run = checked(subject, subject.run(fitted(skeleton(subject.network), shape), shape))
    factor = 2 ** len(sizes)
    text = (
        f"From {joined_sizes(sizes)} to {joined_sizes(shape[2:])} there are {factor} times as many "
        f"positions; {growth(subject, run)}. {_parameters(subject, run)}"
        f"{_split_flops(subject, run, factor)}{_split_kept(subject.base, run, factor)}"
        f"{where_it_begins(subject.base, run)}"
    )
    return said_of(subject, run, text)


def _parameters(subject: Subject, run: VariantRun) -> str:
    changed = layers_with_other_parameters(subject, run)
    own, its = subject.base.predicted.num_parameters, run.predicted.num_parameters
    if not changed or not own or its is None:
        return f"The parameters do not change: {count(own or 0)}."
    reads = "reads" if len(changed) == 1 else "read"
    how = "more" if min(changed.values()) > 1 else "another number of"
    return (
        f"The parameters become {count(its)}, {times(its, own)}: {listed(changed)} {reads} {how} "
        "features."
    )


@dataclass(frozen=True)
class _Grown:
    """An amount of one layer's at both resolutions."""

    layer: str
    before: int
    after: int

    @property
    def shown(self) -> str:
        """The layer, with its own factor."""
        if not self.before or self.before == self.after:
            return code(self.layer)
        return f"{code(self.layer)} ({times(self.after, self.before)})"


def _excess(amounts: Iterable[_Grown], factor: int) -> int:
    return sum(amount.after - factor * amount.before for amount in amounts)


def _split_flops(subject: Subject, run: VariantRun, factor: int) -> str:
    """What the step's FLOPs are beside `factor` times the network's, layer by layer."""
    own, its = _work(subject.base), _work(run)
    grown = [_Grown(layer, own.get(layer, 0), its.get(layer, 0)) for layer in own | its]
    other = [amount for amount in grown if amount.after != factor * amount.before]
    before, after = (sum(work.values()) for work in (own, its))
    whose = "The step's FLOPs"
    if subject.base.textbook.lower_bound:
        whose += f", but for those that are not known since {without_formula(subject.base)},"
    if not other:
        return f" {whose} grow exactly {factor}× in every layer." if before else ""
    parts = [
        f"{_excess(amounts, factor):+,} in {shortened([each.shown for each in amounts])}, {why}"
        for why, amounts in _by_reason(other, subject, run).items()
    ]
    return (
        f" {whose} are {count(after)}, {factor} times {count(before)} and "
        f"{after - factor * before:+,}: {'; '.join(parts)}."
    )


def _work(run: VariantRun) -> dict[str, int]:
    """Forward and backward by the textbook, of the layers where they are known."""
    return {
        cost.layer: cost.forward_flops + cost.backward_flops
        for cost in run.account.costs.layers
        if cost.forward_flops is not None and cost.backward_flops is not None
    }


def _by_reason(
    amounts: Iterable[_Grown], subject: Subject, run: VariantRun
) -> dict[str, list[_Grown]]:
    changed = layers_with_other_parameters(subject, run)
    reads = [_features(each.spec.layers) for each in (subject.base, run)]
    groups: dict[str, list[_Grown]] = {}
    for amount in amounts:
        groups.setdefault(_reason(amount, changed, reads[0], reads[1]), []).append(amount)
    return groups


def _reason(
    amount: _Grown, changed: Mapping[str, float], own: Mapping[str, int], its: Mapping[str, int]
) -> str:
    layer = amount.layer
    if not amount.before or not amount.after:
        return "which only one of the two networks runs"
    if amount.before == amount.after:
        return "whose work is the same at both resolutions"
    if own.get(layer) != its.get(layer):
        return f"which reads {count(its[layer])} features instead of {count(own[layer])}"
    if layer in changed:
        return "which has another number of parameters"
    return "whose sizes are not in proportion to the image's"


def _features(layers: Iterable[DescribedCall]) -> dict[str, int]:
    return {spec.key: spec.geometry["in_features"] for spec in layers if spec.kind == "linear"}


_Piece = tuple[str, str]  # what it is, and the layer that allocated it

_NAMES = {
    "output": "the outputs of",
    "indices": "the indices of",
    "statistics": "the statistics of",
    "mask": "the mask of",
}


def _split_kept(base: VariantRun, run: VariantRun, factor: int) -> str:
    """What is kept beside `factor` times as much; nothing is said where that is not known."""
    own, its = base.saved_pieces, run.saved_pieces
    before, after = (sum(pieces.values()) for pieces in (own, its))
    if (before, after) != (base.predicted.saved_bytes, run.predicted.saved_bytes) or not before:
        return ""
    if after == factor * before:
        return ""
    grown = {piece: _Grown(piece[1], own.get(piece, 0), its.get(piece, 0)) for piece in own | its}
    other = {key: each for key, each in grown.items() if each.after != factor * each.before}
    constant = {key: each for key, each in other.items() if each.after == each.before}
    changing = {key: each for key, each in other.items() if key not in constant}
    parts = [
        f"{_excess(pieces.values(), factor):+,} B in {_named(pieces)}, {why}"
        for pieces, why in (
            (changing, "whose sizes are not in proportion"),
            (constant, "which take as much at both resolutions"),
        )
        if pieces
    ]
    return (
        f" What autograd keeps is {factor} times {count(before)} B and "
        f"{after - factor * before:+,} B: {'; '.join(parts)}."
    )


def _named(pieces: Mapping[_Piece, _Grown]) -> str:
    by_code: dict[str, list[str]] = {}
    for (what, _), amount in pieces.items():
        by_code.setdefault(what, []).append(amount.shown)
    named = [
        f"{_NAMES.get(what, what.replace('_', ' ') + ' of')} {shortened(layers)}"
        for what, layers in by_code.items()
    ]
    return joined(named)
