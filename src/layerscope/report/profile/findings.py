"""What a profile says first: the verdict, the peak, the most expensive layers, the reasons."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from layerscope.base.formatting import (
    UNKNOWN,
    at_least,
    bytes_exact,
    bytes_short,
    count_short,
    number,
    rate,
    seconds_short,
    share,
    signed,
    unit_of,
)
from layerscope.reconcile.peak import LargestBatch, Peak
from layerscope.reconcile.profile import LayerTiming, Profile
from layerscope.reconcile.roofline import WHY_ABOVE
from layerscope.reconcile.rows import Row
from layerscope.report.document import Column, Table, Unit
from layerscope.report.profile.lines import LayerLine, added, layer_lines, layer_seconds
from layerscope.report.profile.rows import holds

NUM_LEADERS = 5
# A total that is small by nature would make all of its reasons look large.
SCALE_OF = {"buffer_bytes": "output_bytes"}


# The verdict ----------------------------------------------------------------------------------


def verdict(profile: Profile) -> str:
    """Return in one sentence whether the promise holds: no unexplained number."""
    counts = profile.comparisons
    text = (
        f"{counts.num_unexplained:,} unexplained of {counts.num_compared:,} comparisons that could "
        f"fail; {counts.num_not_counted:,} not counted by their instrument"
    )
    if counts.num_unknown:
        text += f"; {counts.num_unknown:,} unknown, for want of a formula"
    return text + "."


def unexplained_rows(profile: Profile) -> tuple[Row, ...]:
    """Return the rows, totals among them, that reasons do not bridge."""
    return tuple(row for row in (*profile.rows, *profile.totals) if not holds(row))


def unexplained_line(row: Row) -> str:
    """Return what is left over of one row."""
    unit = unit_of(row.quantity)
    return (
        f"UNEXPLAINED: {row.layer}, {row.quantity} by {row.instrument}: "
        f"{signed(row.unexplained)}{f' {unit}' if unit else ''}"
    )


# The most expensive layers --------------------------------------------------------------------


def leaders(profile: Profile) -> tuple[Table, ...]:
    """Return the layers with the most saved bytes, FLOPs and, where it was measured, time."""
    lines = layer_lines(profile)
    whole = added(line.flops for line in lines)
    known = " that are known" if whole is None or whole.lower_bound else ""
    flops = [line.flops.value if line.flops else 0 for line in lines]
    found = (
        _most("saved bytes", "bytes", lines, [line.saved_bytes for line in lines]),
        _most(f"FLOPs{known}", "flops", lines, flops),
        _most("time", "seconds", lines, [line.seconds or 0 for line in lines]),
    )
    return tuple(table for table in found if table.rows)


def _most(title: str, unit: Unit, lines: Sequence[LayerLine], values: Sequence[float]) -> Table:
    whole = sum(values)
    most = sorted(zip(lines, values, strict=True), key=lambda pair: -pair[1])[:NUM_LEADERS]
    columns = (Column("", "layer"), Column("", "amount", unit, True), Column("", "share", "share"))
    rows = tuple((line.name, value, value / whole) for line, value in most if value)
    return Table(columns, rows, title=title)


# The reasons ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReasonGroup:
    """One reason wherever it applies to one quantity.

    Args:
        instruments: those that see it alike.
        text: what all layers have in common, or the first layer's.
        layers: those that it applies to.
        share: of the network's total of the quantity, or of `SCALE_OF`.
        by_dry_run: the amount is what the dry run saw.
    """

    quantity: str
    instruments: tuple[str, ...]
    code: str
    text: str
    layers: tuple[str, ...]
    amount: int
    share: float
    by_dry_run: bool


def reason_groups(profile: Profile) -> tuple[ReasonGroup, ...]:
    """Return why the instruments differ from the textbook, the largest share first."""
    whole = _totals(profile.rows)
    found = [
        _group(quantity, instrument, code, rows, whole)
        for (quantity, instrument, code), rows in _by_reason(profile.rows).items()
    ]
    return tuple(sorted(_joined(found), key=lambda group: -group.share))


def _by_reason(rows: Iterable[Row]) -> dict[tuple[str, str, str], list[Row]]:
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        for code in dict.fromkeys(r.code for r in row.reasons if r.amount):
            groups.setdefault((row.quantity, row.instrument, code), []).append(row)
    return groups


def _group(
    quantity: str, instrument: str, code: str, rows: Sequence[Row], whole: Mapping[str, int]
) -> ReasonGroup:
    reasons = [(row.layer, r) for row in rows for r in row.reasons if r.code == code and r.amount]
    amount = sum(reason.amount for _, reason in reasons)
    texts = dict.fromkeys(reason.text for _, reason in reasons)
    first_layer, first = reasons[0]
    text = first.text if len(texts) == 1 else f"{first_layer}: {first.text}"
    return ReasonGroup(
        quantity=quantity,
        instruments=(instrument,),
        code=code,
        text=text if len(texts) == 1 else f"{text}; the others likewise",
        layers=tuple(dict.fromkeys(layer for layer, _ in reasons)),
        amount=amount,
        share=abs(amount) / whole[SCALE_OF.get(quantity, quantity)],
        by_dry_run=any(reason.source is not None for _, reason in reasons),
    )


def _joined(groups: Iterable[ReasonGroup]) -> list[ReasonGroup]:
    """Put instruments that see the same beside each other."""
    found: dict[tuple[object, ...], ReasonGroup] = {}
    for group in groups:
        key = (group.quantity, group.code, group.text, group.layers, group.amount)
        known = found.get(key)
        instruments = (*known.instruments, *group.instruments) if known else group.instruments
        found[key] = replace(group, instruments=instruments)
    return list(found.values())


def _totals(rows: Iterable[Row]) -> dict[str, int]:
    """Return by quantity the largest sum, theory's or an instrument's; at least 1."""
    sums: dict[tuple[str, str], list[int]] = {}
    for row in rows:
        if row.is_exact:
            both = sums.setdefault((row.quantity, row.instrument), [0, 0])
            both[0] += (row.theory or 0) + (row.theory_not_counted or 0)
            both[1] += int(row.measured or 0)
    whole: dict[str, int] = {}
    for (quantity, _), both in sums.items():
        whole[quantity] = max(1, whole.get(quantity, 1), *both)
    return {q: max(size, whole.get(SCALE_OF.get(q, q), 1)) for q, size in whole.items()}


# The peak -------------------------------------------------------------------------------------


def peak_lines(profile: Profile) -> tuple[tuple[str, str], ...]:
    """Return what is known of the memory of a step: a name and a sentence each."""
    peak = profile.peak
    lines = [
        ("live peak", _live_peak(peak)),
        ("of it", _parts(peak)),
        ("optimizer", _optimizer(profile)),
        ("scratch", _scratch(peak)),
        ("on the device", _device_stages(peak)),
        ("largest batch", _largest_batches(profile)),
    ]
    return tuple((name, text) for name, text in lines if text)


def _live_peak(peak: Peak) -> str:
    predicted, measured = peak.predicted_live_bytes, peak.measured_live_bytes
    if predicted is None:
        return "unknown: the backward pass could not run"
    text = f"predicted {bytes_exact(predicted)}"
    text += _place(peak.predicted_layer, peak.predicted_phase)
    if measured is None:
        return f"{text}, not measured"
    if measured == predicted:
        return f"{text}, measured the same"
    return f"{text}, measured {bytes_exact(measured)}, {signed(measured - predicted)} B"


def _place(layer: str | None, phase: str | None) -> str:
    names = dict.fromkeys(name for name in (phase, layer) if name)
    return f" in {' of '.join(names)}" if names else ""


def _parts(peak: Peak) -> str:
    return ", ".join(
        f"{name.replace('_', ' ')} {bytes_short(size)}" for name, size in peak.parts.items() if size
    )


def _optimizer(profile: Profile) -> str:
    peak = profile.peak
    if not peak.state_bytes and not peak.optimizer_bytes:
        return ""
    return (
        f"{profile.settings.optimizer_name} keeps {bytes_short(peak.state_bytes)}; gradients and "
        f"temporaries in its step take {bytes_short(peak.optimizer_bytes)}"
    )


def _scratch(peak: Peak) -> str:
    if peak.scratch_bytes_at_peak is None:
        return ""
    return (
        f"measured apart, never predicted: {bytes_short(peak.scratch_bytes_at_peak)} inside an "
        f"operation when most was allocated, {bytes_exact(peak.measured_bytes)}"
        f"{_place(peak.measured_layer, peak.measured_phase)}"
    )


def _device_stages(peak: Peak) -> str:
    """Lead from the live peak to what nvidia-smi shows; empty where there is no CUDA device."""
    if peak.device_stages is None:
        return ""
    parts = [f"{stage.name} {bytes_short(stage.num_bytes)}" for stage in peak.device_stages]
    used = sum(stage.num_bytes for stage in peak.device_stages)
    return f"{' + '.join(parts)} = {bytes_exact(used)}, as nvidia-smi shows it"


def _largest_batches(profile: Profile) -> str:
    batches = profile.peak.largest_batch
    if not batches:
        return "not known"
    fits = ", ".join(f"{b.batch_size:,} in {_memory(b)}" for b in batches)
    scratch = batches[0].scratch_bytes
    apart = "not measured" if scratch is None else f"{bytes_short(scratch)} at this batch"
    return f"{fits}: what is alive in a whole step; scratch comes on top, {apart}"


def _memory(batch: LargestBatch) -> str:
    return f"{batch.memory_bytes // 2**30} GiB"


# Time -----------------------------------------------------------------------------------------


def bound_by(timing: LayerTiming) -> str | None:
    """Return `arithmetic` or `memory bandwidth`; None where either side is unknown."""
    if timing.ridge is None or timing.intensity is None:
        return None
    return "memory bandwidth" if timing.intensity < timing.ridge else "arithmetic"


def slowest_line(profile: Profile) -> str | None:
    """Return which layer is slowest, and which were faster than the roofline allows, and why.

    None where no time was measured.
    """
    if not profile.times:
        return None
    slowest = max(profile.times, key=layer_seconds)
    seconds, all_seconds = layer_seconds(slowest), sum(map(layer_seconds, profile.times))
    part = share(seconds / all_seconds) if all_seconds else "unknown"
    text = (
        f"Slowest: {slowest.layer}, {seconds_short(seconds)} of the {seconds_short(all_seconds)} "
        f"that a step spends in layers ({part})"
    )
    limit = bound_by(slowest)
    if limit is not None:
        text += (
            f"; its forward pass is bound by {limit} ({number(slowest.intensity)} FLOP/B, the "
            f"machine's ridge is at {number(slowest.ridge)})"
        )
    if slowest.roofline_fraction is not None:
        text += f", at {share(slowest.roofline_fraction)} of the roofline"
    above = [timing.layer for timing in profile.times if timing.is_above_roofline]
    if above:
        names = ", ".join(above[:3]) + (f" and {len(above) - 3} more" if above[3:] else "")
        text += f". Above the roofline: {names}; {WHY_ABOVE}"
    return text + "."


def machine_line(profile: Profile) -> str | None:
    """Return what the machine reached; None where it was not measured."""
    machine = profile.machine
    if machine is None:
        return None
    threads = f"{machine.num_threads} thread{'s' if machine.num_threads > 1 else ''}"
    text = (
        f"{machine.name} ({machine.device}, {threads}): copies "
        f"{rate(machine.copy_bytes_per_second.median, 'B')}, multiplies {machine.dtype} matrices "
        f"at {rate(machine.matmul_flops_per_second.median, 'FLOP')}"
    )
    if machine.matmul_precision != machine.convolution_precision:
        text += (
            f" in {machine.matmul_precision}, and in {machine.convolution_precision}, as its "
            f"convolutions do, at {rate(machine.convolution_flops_per_second.median, 'FLOP')}"
        )
    return f"{text}; measured in this run."


# The network in a few figures -----------------------------------------------------------------


def key_figures(profile: Profile) -> tuple[tuple[str, str], ...]:
    """Return name and value, each with its unit."""
    total, lines = profile.costs.total(), layer_lines(profile)
    figures = [
        ("parameters", f"{total.num_parameters:,}"),
        ("forward", _flops(total.forward_flops, total.lower_bound)),
        ("backward", _flops(total.backward_flops, total.lower_bound)),
        ("outputs", bytes_short(total.output_bytes)),
        ("saved for backward", bytes_short(sum(line.saved_bytes for line in lines))),
        ("live peak, predicted", bytes_short(profile.peak.predicted_live_bytes)),
    ]
    if profile.step is not None:
        figures.append(("step, median", seconds_short(profile.step.step_seconds.median)))
    return tuple(figures)


def _flops(count: int, lower_bound: bool) -> str:
    """Write a total; at least 0 is no more than not knowing."""
    if lower_bound and not count:
        return UNKNOWN
    short = count_short(count)
    unit = "FLOP" if short[-1].isalpha() else " FLOP"
    return at_least(short + unit, lower_bound)
