"""A profile of CifarCNN at batch 32, fp32, CPU, that needs no instrument and no clock.

It stands on a real dry run. What instruments would say is what is predicted of them; the measured
times are invented.
"""

from dataclasses import replace
from types import SimpleNamespace

import torch

from layerscope.audit import Audit, JudgedClaim, JudgedFigure
from layerscope.dry_run import dry_run
from layerscope.measure import MachineCeilings, MemoryPoint, Spread, TimeRecord
from layerscope.measure.timing import LayerTime
from layerscope.networks.cifar_cnn import CifarCNN
from layerscope.reconcile import CallArguments, Profile, ProfileSettings, Row
from layerscope.reconcile.account import account
from layerscope.reconcile.comparisons import COMPARISONS, rows_of
from layerscope.reconcile.measurements import Measurements
from layerscope.reconcile.peak import peak_of, peak_row
from layerscope.reconcile.roofline import bytes_moved, layer_timings
from layerscope.reconcile.rows import total

N = 32
EVIL = "<script>alert(1)</script>"
SCRATCH = 1024


def account_of(network, input_shape):
    """What is known of a step on one image batch in float32."""
    return account(dry_run(network, (torch.zeros(input_shape),)), 4)


def costs_of(network, input_shape):
    """The textbook of one image batch in float32."""
    return account_of(network, input_shape).costs


def as_predicted(comparison):
    """The comparison with an instrument that sees what is predicted of it."""

    def measured(theory, measurements):
        rows = {layer: comparison.predict(theory, layer) for layer in theory.types}
        return {
            layer: p.theory + sum(reason.amount for reason in p.reasons)
            for layer, p in rows.items()
            if p.counted and p.theory is not None
        }

    return replace(comparison, measured=measured)


def times_of(run, costs, machine):
    """Invented, but never faster than the roofline allows."""
    times = {}
    for c in costs.layers:
        moved = sum(bytes_moved(call) for call in run.layers if call.key == c.layer)
        seconds = max(
            (c.forward_flops or 0) / machine.matmul_flops_per_second.median,
            moved / machine.copy_bytes_per_second.median,
            2e-6,
        ) * (1.3 + hash_of(c.layer) % 100 / 50)  # fmt: skip
        forward = Spread(seconds, seconds * 0.95, seconds * 1.2)
        backward = Spread(2 * seconds, seconds * 1.9, seconds * 2.4)
        times[c.layer] = LayerTime(forward, backward if c.forward_flops else None)
    step = sum(t.forward.median + (t.backward.median if t.backward else 0) for t in times.values())
    return TimeRecord(
        times, Spread(step * 0.98, step * 0.95, step * 1.2), Spread(step * 1.06, step, step * 1.3),
        10, 2,
    )  # fmt: skip


def hash_of(text):
    """The same in every process."""
    return sum(ord(letter) * (place + 7) for place, letter in enumerate(text))


def measured_peak(peak):
    """A measurement that agrees; its timeline dips at the start of every layer."""
    timeline, before = [], 0
    for number, moment in enumerate(peak.predicted_timeline):
        if moment.phase == "optimizer":
            break
        layer = None if moment.phase == "loss" else moment.layer
        heights = (before, (before + moment.live_bytes) // 2, moment.live_bytes, moment.bytes_after)
        timeline += [
            MemoryPoint(1e-4 * number + 1e-5 * place, height, layer, moment.phase)
            for place, height in enumerate(heights)
        ]
        before = moment.bytes_after
    return replace(
        peak,
        measured_bytes=peak.predicted_live_bytes + SCRATCH,
        measured_layer=peak.predicted_layer,
        measured_phase=peak.predicted_phase,
        measured_live_bytes=peak.predicted_live_bytes,
        scratch_bytes_at_peak=SCRATCH,
        timeline=tuple(timeline),
    )


def cifar_cnn_profile(**changes):
    """The whole profile; `changes` replace its fields."""
    return profile_of(CifarCNN(), (N, 3, 32, 32), **changes)


def profile_of(network, input_shape, call=None, **changes):
    """Of any network and call; fields that are given are taken as they are."""
    call = call or CallArguments((torch.zeros(input_shape),))
    settings = ProfileSettings(type(network).__name__, input_shape, train=True)
    step = SimpleNamespace(
        network=network, args=call.args, kwargs=call.kwargs, loss_function=call.loss
    )
    run = dry_run(
        network, call.args, call.kwargs, loss=call.loss, optimizer=settings.make_optimizer
    )
    theory = account(run, 4)
    groups = [rows_of(as_predicted(each), theory, Measurements()) for each in COMPARISONS]
    peak = measured_peak(peak_of(step, settings, theory, Measurements()))
    machine = MachineCeilings(
        "AMD EPYC", "cpu", 1, "float32", 1024, "float32", "float32", "2.15.0",
        Spread(11.4e9, 11.1e9, 11.9e9), *[Spread(96.0e9, 91.0e9, 97.0e9)] * 2,
    )  # fmt: skip
    times = times_of(run, theory.costs, machine)
    timings = layer_timings(run, theory.costs, times, machine)
    seconds = tuple(
        Row(t.layer, theory.types[t.layer], "forward_seconds", "time", None, (), t.forward.median)
        for t in timings
    )
    fields = {
        "settings": settings,
        "account": theory,
        "rows": (*(row for rows in groups for row in rows), *seconds),
        "totals": (*(total(rows) for rows in groups), *peak_row(peak, settings)),
        "peak": peak,
        "times": timings,
        "step": times,
        "machine": machine,
        "notes": (),
    }
    return Profile(**(fields | changes))


def unmeasured(profile):
    """The same as a forecast would give it: no instrument, no clock."""
    peak = replace(
        profile.peak, measured_bytes=None, measured_layer=None, measured_phase=None,
        measured_live_bytes=None, scratch_bytes_at_peak=None, timeline=(),
    )  # fmt: skip
    return replace(profile, rows=(), totals=(), peak=peak, times=None, step=None, machine=None)


def example_audit():
    """Three figures that agree and a wrong one."""
    rest = {"place": "table", "paraphrase": "what it is", "exact": 1, "formula": "1"}
    cells = [JudgedFigure(f"table, row {n}", "1 MB", "1.01 MB", "agrees", **rest) for n in range(3)]
    wrong = JudgedFigure("Total | all", EVIL, "23.8 MB", "wrong", **rest)
    return Audit((*cells, wrong), (JudgedClaim("a claim", "another", "for a reason"),))
