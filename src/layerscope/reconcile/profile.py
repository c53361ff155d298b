"""A network's profile: theory, measurements, and every difference in named reasons."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from layerscope.errors import UserError
from layerscope.layers import NetworkSpec
from layerscope.measure import MachineCeilings, TimeRecord
from layerscope.measure.available import available_bytes
from layerscope.reconcile.account import Account, account, total
from layerscope.reconcile.groups import input_row, row_groups
from layerscope.reconcile.measurements import EXACT_INSTRUMENTS, Measurements, measure
from layerscope.reconcile.peak import Peak, peak_of, peak_row
from layerscope.reconcile.roofline import LayerTiming, layer_timings
from layerscope.reconcile.rows import Row
from layerscope.reconcile.settings import Settings, described, prepared
from layerscope.theory import CostTable
from layerscope.theory.step import StepMemory, step_memory


@dataclass(frozen=True)
class Profile:
    """Of one network under one set of settings.

    Args:
        rows: one per layer, quantity and instrument: exact quantities, and seconds. `input` is a
            row of its own, in no total.
        totals: one per exact quantity and instrument, and the peak.
        times: None where time was not measured, as is `step`.
        notes: what a reader has to know: instruments that could not measure, parameters that no
            layer uses.
    """

    settings: Settings
    network: NetworkSpec
    costs: CostTable
    rows: tuple[Row, ...]
    totals: tuple[Row, ...]
    peak: Peak
    times: tuple[LayerTiming, ...] | None
    step: TimeRecord | None
    machine: MachineCeilings | None
    notes: tuple[str, ...]


def profile_network(
    network: nn.Module,
    settings: Settings,
    instruments: frozenset[str] = EXACT_INSTRUMENTS,
) -> Profile:
    """Theory and the named instruments. The network is left as it was.

    Raises:
        UserError: a setting that cannot be, or a network that does not run.
    """
    with prepared(network, settings) as step:
        theory = account(described(step, settings), settings.element_size)
        paper = step_memory(theory.network, theory.saved, torch.get_num_threads())
        _check_fits(theory, paper, settings.device)
        measured = measure(step, settings, instruments)
        peak = peak_of(step, settings, theory, paper, measured.memory)
    groups = row_groups(theory, paper, measured, instruments)
    times = _timings(theory, measured)
    return Profile(
        settings=settings,
        network=theory.network,
        costs=theory.costs,
        rows=(
            *_input_rows(theory, measured, instruments),
            *(row for rows in groups for row in rows),
            *_time_rows(times or ()),
        ),
        totals=(
            *(total(rows, theory.network.num_unseen) for rows in groups),
            *([] if measured.memory is None else [peak_row(peak)]),
        ),
        peak=peak,
        times=times,
        step=measured.times,
        machine=measured.machine,
        notes=(*measured.notes, *_notes(theory)),
    )


def _check_fits(theory: Account, paper: StepMemory, device: str) -> None:
    """The system ends a process that fills the memory, and says nothing."""
    available = available_bytes(device)
    needed = paper.peak.peak_bytes
    if theory.network.num_unseen or available is None or needed <= available:
        return
    raise UserError(
        f"one step takes {needed:,} B by theory, {available:,} B are free on {device}: lower the "
        "batch size or the size of the input"
    )


def _timings(theory: Account, measured: Measurements) -> tuple[LayerTiming, ...] | None:
    if measured.times is None:
        return None
    return layer_timings(theory.network, theory.costs, measured.times, measured.machine)


def _input_rows(
    theory: Account, measured: Measurements, instruments: frozenset[str]
) -> Iterator[Row]:
    if measured.activations is not None and "outputs" in instruments:
        yield input_row(theory, measured.activations)


def _time_rows(times: tuple[LayerTiming, ...]) -> Iterator[Row]:
    """Medians; there is no theory of seconds."""
    for time in times:
        yield Row(time.layer, "forward_seconds", "time", None, (), time.forward.median)
        if time.backward is not None:
            yield Row(time.layer, "backward_seconds", "time", None, (), time.backward.median)


def _notes(theory: Account) -> tuple[str, ...]:
    network, notes = theory.network, []
    if network.unused_parameters:
        notes.append(
            f"{network.unused_parameters:,} parameters ({network.unused_parameter_bytes:,} B) are "
            "used by no layer of this forward pass and stand in no total"
        )
    unknown = theory.costs.total().unknown
    if unknown:
        notes.append(f"no formula for {', '.join(unknown)}: totals of FLOPs are lower bounds")
    kinds = dict.fromkeys(network.layers[call].kind for call in sorted(theory.saved.unknown))
    if kinds:
        notes.append(f"what {', '.join(kinds)} keeps is not known: kept bytes are lower bounds")
    if network.num_unseen:
        notes.append(
            f"{network.num_unseen} tensors were made by something that is no layer (a custom "
            "autograd.Function, or a checkpoint): totals are lower bounds"
        )
    return tuple(notes)
