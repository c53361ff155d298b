"""A network's profile: theory, measurements, and every difference in named reasons."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from layerscope.base.errors import UserError
from layerscope.dry_run import DryRun
from layerscope.layers.preserve_state import num_hooked_parameters
from layerscope.measure import MachineCeilings, TimeRecord
from layerscope.measure.available import available_bytes
from layerscope.reconcile.account import Account, account
from layerscope.reconcile.comparisons import COMPARISONS, input_row, rows_of
from layerscope.reconcile.measurements import EXACT_INSTRUMENTS, Measurements, measure
from layerscope.reconcile.other_tools import ToolFigure, other_tools
from layerscope.reconcile.peak import Peak, peak_of, peak_row
from layerscope.reconcile.roofline import LayerTiming, layer_timings
from layerscope.reconcile.rows import Comparisons, Row, comparisons, total
from layerscope.reconcile.settings import (
    CallArguments,
    ProfileSettings,
    dry_run_of,
    foreign_values_restored,
    prepared,
    without_side_effects,
)
from layerscope.theory import CostTable


@dataclass(frozen=True)
class Profile:
    """Theory and measurements of one network under one set of settings.

    Args:
        rows: one per layer, quantity and instrument, for exact quantities and seconds. `input` has
            a row, which is in no total.
        totals: one per exact quantity and instrument, and the live peak.
        times, step: None if time was not measured.
        other_tools: what other tools print, and why.
        notes: facts that a reader needs, such as instruments that could not measure, and parameters
            that no layer uses.
    """

    settings: ProfileSettings
    account: Account
    rows: tuple[Row, ...]
    totals: tuple[Row, ...]
    peak: Peak
    times: tuple[LayerTiming, ...] | None
    step: TimeRecord | None
    machine: MachineCeilings | None
    notes: tuple[str, ...]
    other_tools: tuple[ToolFigure, ...] = ()

    @property
    def run(self) -> DryRun:
        """The dry run that the theory is based on."""
        return self.account.run

    @property
    def costs(self) -> CostTable:
        """The textbook's tables."""
        return self.account.costs

    @property
    def comparisons(self) -> Comparisons:
        """The numbers of rows that were compared and that are unexplained, including the peak."""
        peaks = [row for row in self.totals if row.quantity == "live_peak_bytes" and row.counted]
        return comparisons((*self.rows, *peaks))


def profile_network(
    network: nn.Module,
    settings: ProfileSettings,
    instruments: frozenset[str] = EXACT_INSTRUMENTS,
    call: CallArguments | None = None,
) -> Profile:
    """Run the network dry, then under the named instruments. It is left as it was.

    Args:
        call: the arguments of the network; by default an image of `settings.input_shape`.

    Raises:
        UserError: a setting is not possible, or the network does not run.
    """
    if settings.is_forecast:
        instruments = frozenset()
    with prepared(network, settings, call) as step:
        foreign: list[torch.Tensor] = []
        run = dry_run_of(step, settings, foreign=foreign)
        theory = account(run, settings.element_size)
        _check_fits(theory.run, settings.device)
        step = without_side_effects(step, run, foreign)
        with foreign_values_restored(run, foreign):
            measured = measure(step, settings, instruments)
        peak = peak_of(step, settings, theory, measured)
    groups = [rows_of(comparison, theory, measured) for comparison in COMPARISONS]
    times = _timings(theory, measured)
    totals = (*(total(rows) for rows in groups if rows), *peak_row(peak, settings))
    return Profile(
        settings=settings,
        account=theory,
        rows=(
            *input_row(theory, measured),
            *(row for rows in groups for row in rows),
            *_time_rows(theory, times or ()),
        ),
        totals=totals,
        peak=peak,
        times=times,
        step=measured.times,
        machine=measured.machine,
        notes=(
            *measured.notes,
            *_notes(theory, settings, measured, num_hooked_parameters(network)),
        ),
        other_tools=other_tools(measured, totals, peak),
    )


def _check_fits(run: DryRun, device: str) -> None:
    """Refuse a step that does not fit: the system kills such a process without a message."""
    available = None if not run.has_backward else available_bytes(device)
    if available is None or run.live_peak_bytes <= available:
        return
    raise UserError(
        f"one step takes {run.live_peak_bytes:,} B by the dry run, {available:,} B are free on "
        f"{device}: lower the batch size or the size of the input"
    )


def _timings(theory: Account, measured: Measurements) -> tuple[LayerTiming, ...] | None:
    if measured.times is None:
        return None
    by_cudnn = {u.layer for u in theory.units if u.family is not None and u.family.by_cudnn}
    return layer_timings(
        theory.run,
        theory.costs,
        measured.times,
        measured.machine,
        frozenset(layer for layer in by_cudnn if layer is not None),
    )


def _time_rows(theory: Account, times: tuple[LayerTiming, ...]) -> Iterator[Row]:
    """Yield rows of median seconds, which have no theory."""
    for time in times:
        kind = theory.types.get(time.layer, "")
        yield Row(time.layer, kind, "forward_seconds", "time", None, (), time.forward.median)
        if time.backward is not None:
            yield Row(time.layer, kind, "backward_seconds", "time", None, (), time.backward.median)


def _notes(
    theory: Account, settings: ProfileSettings, measured: Measurements, num_hooked: int
) -> tuple[str, ...]:
    run, notes = theory.run, []
    if run.is_real:
        notes.append(
            "the step was described on real tensors, since it does not run on tensors without "
            f"memory: the figures hold for this input ({run.why_real})"
        )
    if settings.is_forecast:
        notes.append(
            f"no {settings.device} is here: the forward pass was run dry for it; torch cannot run "
            "its backward pass dry there, so there is no peak, and no instrument measured"
        )
    if settings.is_forecast and any(u.family and u.family.has_backends for u in theory.units):
        notes.append(
            "attention is accounted for by the math backend, which tensors without memory take: a "
            "GPU often fuses it and then saves less"
        )
    if theory.saved is None:
        notes.append(
            f"torch {torch.__version__} is not in the table of what autograd saves: saved bytes "
            "are predicted, and their reasons left out"
        )
    if measured.memory is not None and measured.memory.has_block_sizes:
        notes.append(
            "the allocator's history does not tell the sizes that were asked for: the measured "
            "peaks are of its blocks, each rounded up to 512 B or more"
        )
    if num_hooked:
        notes.append(
            f"hooks on the gradients of {num_hooked:,} parameters were left out: an optimizer that "
            "steps in one would train the network"
        )
    if run.unused_parameters:
        notes.append(
            f"{run.unused_parameters:,} parameters ({run.unused_parameter_bytes:,} B) are used by "
            "no layer of this forward pass and stand in no total"
        )
    unknown = theory.costs.total().unknown
    if unknown:
        notes.append(f"no formula for {', '.join(unknown)}: totals of FLOPs are lower bounds")
    return tuple(notes)
