"""What a profile says in words: the largest gaps, the bottleneck, the peak."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from layerscope.formatting import (
    amount,
    bytes_exact,
    bytes_short,
    count_short,
    number,
    rate,
    seconds_short,
    share,
)
from layerscope.reconcile.profile import LayerTiming, Profile
from layerscope.reconcile.rows import EXACT_QUANTITIES, Row

# A total that is small by nature would make all of its gaps look large.
SCALE_OF = {"bias_gradient_flops": "backward_flops", "buffer_bytes": "output_bytes"}


@dataclass(frozen=True)
class Gap:
    """A layer where an instrument does not see the textbook.

    Args:
        share: of the network's total, which makes FLOPs and bytes comparable; of the quantity
            itself, or of `SCALE_OF`.
    """

    row: Row
    share: float

    @property
    def difference(self) -> float:
        """Measured less theory."""
        assert self.row.measured is not None
        assert self.row.theory is not None
        return self.row.measured - self.row.theory


def gaps(profile: Profile, count: int | None = None) -> tuple[Gap, ...]:
    """Largest share first; the first `count` of them."""
    whole = _totals(profile.rows)
    found = [
        Gap(row, abs(row.measured - row.theory) / _scale(row.quantity, whole))
        for row in exact_rows(profile.rows)
        if row.measured is not None and row.theory is not None and row.measured != row.theory
    ]
    found.sort(key=lambda gap: -gap.share)  # stable: of equals, the earlier layer
    return tuple(found[:count])


def gap_sentence(gap: Gap) -> str:
    """What was seen, and every reason with its amount."""
    row = gap.row
    scale = f" {SCALE_OF[row.quantity]}" if row.quantity in SCALE_OF else ""
    text = (
        f"{row.layer}, {row.quantity} by {row.instrument}: "
        f"{amount(gap.difference, row.quantity)} ({share(gap.share)} of the network's{scale})"
    )
    if not row.reasons:
        return f"{text}, for no reason that is known"
    if len(row.reasons) == 1 and not row.unexplained:
        return f"{text}: {row.reasons[0].text}"
    reasons = [f"{amount(reason.amount, row.quantity)}: {reason.text}" for reason in row.reasons]
    if row.unexplained:
        reasons.append(f"{amount(row.unexplained, row.quantity)}: UNEXPLAINED")
    return f"{text}. {'; '.join(reasons)}"


def exact_rows(rows: Sequence[Row]) -> Iterator[Row]:
    """Those in which nothing may stay unexplained."""
    return (row for row in rows if row.quantity in EXACT_QUANTITIES)


def is_accounted_for(row: Row) -> bool:
    """False only where something exact is known on both sides and reasons do not bridge it."""
    return row.quantity not in EXACT_QUANTITIES or not row.unexplained


def unexplained_rows(profile: Profile) -> tuple[Row, ...]:
    """Exact rows, totals among them, that reasons do not bridge."""
    return tuple(row for row in (*profile.rows, *profile.totals) if not is_accounted_for(row))


def verdict(profile: Profile) -> str:
    """Whether the promise holds: no unexplained number."""
    rows = [row for row in exact_rows((*profile.rows, *profile.totals)) if row.measured is not None]
    compared = [row for row in rows if row.unexplained is not None]
    open_rows = unexplained_rows(profile)
    unknown = len(rows) - len(compared)
    if not rows:
        return "Theory only: no instrument was switched on."
    text = (
        f"{len(open_rows)} of {len(compared):,} comparisons leave something UNEXPLAINED."
        if open_rows
        else f"All {len(compared):,} exact comparisons hold: theory + reasons = measured."
    )
    return text + (f" {unknown:,} have no theory to compare with." if unknown else "")


def measured_or_predicted(profile: Profile, quantity: str, instrument: str) -> dict[str, int]:
    """By layer: what the instrument says, else what theory and reasons say; unknown left out."""
    known = {}
    for row in profile.rows:
        if row.quantity == quantity and row.instrument == instrument:
            value = row.measured if row.measured is not None else row.predicted
            if value is not None:
                known[row.layer] = int(value)
    return known


def layer_seconds(timing: LayerTiming) -> float:
    """Forward and backward, medians."""
    return timing.forward.median + (timing.backward.median if timing.backward else 0.0)


def ridge(profile: Profile) -> float | None:
    """FLOP per byte above which this machine's arithmetic, not its memory, is the limit."""
    if profile.machine is None:
        return None
    machine = profile.machine
    return machine.matmul_flops_per_second.median / machine.copy_bytes_per_second.median


def bound_by(profile: Profile, timing: LayerTiming) -> str | None:
    """`arithmetic` or `memory bandwidth`; None where either side is unknown."""
    limit = ridge(profile)
    if limit is None or timing.intensity is None:
        return None
    return "memory bandwidth" if timing.intensity < limit else "arithmetic"


def bottleneck(profile: Profile) -> str:
    """One sentence: the slowest layer, or without times the most expensive one."""
    if not profile.times:
        return _bottleneck_in_theory(profile)
    slowest = max(profile.times, key=layer_seconds)
    seconds, all_seconds = layer_seconds(slowest), sum(map(layer_seconds, profile.times))
    part = share(seconds / all_seconds) if all_seconds else "unknown"
    text = (
        f"Bottleneck: {slowest.layer}, {seconds_short(seconds)} of the "
        f"{seconds_short(all_seconds)} that a step spends in layers ({part})"
    )
    limit = bound_by(profile, slowest)
    if limit is not None:
        text += (
            f", its forward pass bound by {limit} ({number(slowest.intensity)} FLOP/B, the "
            f"machine's ridge is at {number(ridge(profile))})"
        )
    if slowest.roofline_fraction is not None:
        text += f", at {share(slowest.roofline_fraction)} of the roofline"
        if slowest.roofline_fraction > 1:
            text += " (faster than its ceilings when they were measured: a cache, less other work, "
            text += "or an algorithm with fewer operations)"
    return text + "."


def _bottleneck_in_theory(profile: Profile) -> str:
    flops = {
        cost.layer: cost.forward_flops + (cost.backward_flops or 0)
        for cost in profile.costs.layers
        if cost.forward_flops is not None
    }
    kept = measured_or_predicted(profile, "saved_bytes", "saved")
    parts = [
        _largest(flops, lambda value: f"{count_short(value)}FLOP", "spends most arithmetic"),
        _largest(kept, bytes_short, "keeps most for backward"),
    ]
    found = " and ".join(part for part in parts if part)
    known = ", of what is known" if profile.costs.total().lower_bound else ""
    return f"Bottleneck (no times measured{known}): {found or 'nothing is known'}."


def _largest(values: dict[str, int], text: Callable[[int], str], does: str) -> str:
    whole = sum(values.values())
    if not whole:
        return ""
    layer = max(values, key=lambda key: values[key])
    return f"{layer} {does} ({text(values[layer])}, {share(values[layer] / whole)})"


def peak_lines(profile: Profile) -> tuple[str, ...]:
    """Predicted and measured peak, what it consists of, and the largest batch that fits."""
    peak = profile.peak
    lines = [f"Peak of a step, above parameters, buffers and input: {_peak_values(profile)}."]
    parts = [
        f"{name.replace('_', ' ')} {bytes_short(size)}" for name, size in peak.parts.items() if size
    ]
    if parts:
        lines.append(f"At the predicted peak: {', '.join(parts)}.")
    if peak.scratch_bytes_at_peak is not None:
        lines.append(
            f"The library's scratch at the measured peak: {bytes_exact(peak.scratch_bytes_at_peak)}"
            "."
        )
    if peak.measured_live_bytes is not None:
        lines.append(
            "Without what operations allocate and free within themselves: predicted "
            f"{bytes_exact(peak.predicted_live_bytes)}, measured "
            f"{bytes_exact(peak.measured_live_bytes)}."
        )
    batches = peak.largest_batch or {}
    fits = [f"{batch:,} in {bytes_short(size)}" for size, batch in batches.items()]
    if fits:
        optimizer = profile.settings.optimizer
        lines.append(
            f"Largest batch that fits, by prediction, with {optimizer}'s state: {', '.join(fits)}."
        )
    else:
        lines.append("Largest batch that fits: not known.")
    return tuple(lines)


def _peak_values(profile: Profile) -> str:
    peak = profile.peak
    predicted = f"predicted {bytes_exact(peak.predicted_bytes)}"
    predicted += _place(peak.predicted_layer, peak.predicted_phase)
    if peak.measured_bytes is None:
        return f"{predicted}, not measured"
    measured = f"measured {bytes_exact(peak.measured_bytes)}"
    measured += _place(peak.measured_layer, peak.measured_phase)
    off = peak.measured_bytes - peak.predicted_bytes
    part = f"{100 * off / max(1, peak.predicted_bytes):+.2f} % of the prediction"
    return (
        f"{predicted}, {measured}, {amount(off, 'peak_bytes')} ({part})"
        if off
        else (f"{predicted}, {measured}, the same")
    )


def _place(layer: str | None, phase: str | None) -> str:
    return " in " + " of ".join(part for part in (phase, layer) if part) if layer or phase else ""


def machine_line(profile: Profile) -> str | None:
    """The ceilings, and of what they are; None where they were not measured."""
    machine = profile.machine
    if machine is None:
        return None
    threads = f"{machine.num_threads} thread{'s' if machine.num_threads > 1 else ''}"
    return (
        f"{machine.name} ({machine.device}, {threads}): copies "
        f"{rate(machine.copy_bytes_per_second.median, 'B')}, multiplies {machine.dtype} matrices "
        f"at {rate(machine.matmul_flops_per_second.median, 'FLOP')}; measured in this run."
    )


def _scale(quantity: str, whole: Mapping[str, int]) -> int:
    return max(whole[quantity], whole.get(SCALE_OF.get(quantity, quantity), 1))


def _totals(rows: Sequence[Row]) -> dict[str, int]:
    """By quantity: the largest sum, theory's or an instrument's; at least 1."""
    sums: dict[tuple[str, str], list[int]] = {}
    for row in exact_rows(rows):
        both = sums.setdefault((row.quantity, row.instrument), [0, 0])
        both[0] += row.theory or 0
        both[1] += int(row.measured or 0)
    whole: dict[str, int] = {}
    for (quantity, _), both in sums.items():
        whole[quantity] = max(1, whole.get(quantity, 1), *both)
    return whole
