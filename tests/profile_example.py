"""A profile of CifarCNN at batch 32, fp32, CPU, made by hand from the walkthrough's formulas.

The measured times are invented; everything exact is what this network really does.
"""

from layerscope.audit import Audit, Cell, Finding
from layerscope.layers import describe
from layerscope.measure import MachineCeilings, MemoryPoint, Spread, TimeRecord
from layerscope.measure.timing import LayerTime
from layerscope.networks.cifar_cnn import CifarCNN
from layerscope.reconcile import Peak, Profile, Reason, Row, Settings
from layerscope.reconcile.peak import peak_row
from layerscope.reconcile.roofline import bytes_moved, layer_timings
from layerscope.theory.saved import saved_memory
from layerscope.theory.step import step_memory
from layerscope.theory.table import cost_table

N = 32
EVIL = "<script>alert(1)</script>"


def saved_reasons(c):
    """Why a layer's output is not what autograd keeps of it."""
    if c.kind == "batch_norm":
        channels = c.output_shapes[0][1]
        return (
            Reason("output_not_kept", -c.output_bytes,
                   "the ReLU after it keeps its own result, so nobody keeps this output"),
            Reason("batch_statistics", 8 * channels, "mean and 1/σ of the batch, two vectors"),
        )  # fmt: skip
    if c.kind == "max_pool":
        indices = Reason("pool_indices", 2 * c.output_bytes, "int64 positions of the maxima")
        if c.layer == "block3.pool":
            text = "global average pooling keeps nothing of its input"
            return (indices, Reason("output_not_kept", -c.output_bytes, text))
        return (indices,)
    if c.kind == "linear":
        return (Reason("output_not_kept", -c.output_bytes, "a sum keeps nothing of the logits"),)
    return ()


def rows_of(c):
    """Every quantity of a layer by the instruments that see it."""
    for quantity, value in (
        ("output_elements", c.output_elements), ("num_parameters", c.num_parameters),
        ("parameter_bytes", c.parameter_bytes), ("buffer_bytes", c.buffer_bytes),
        ("output_bytes", c.output_bytes),
    ):  # fmt: skip
        yield Row(c.layer, quantity, "outputs", value, (), value)
    reasons = saved_reasons(c)
    kept = c.output_bytes + sum(reason.amount for reason in reasons)
    yield Row(c.layer, "saved_bytes", "saved", c.output_bytes, reasons, kept)
    yield Row(c.layer, "macs", "fvcore", c.macs, (), c.macs)
    for instrument in ("flop_counter", "profiler"):
        counted = c.kind in ("conv2d", "linear")
        text = f"{instrument} counts convolutions and linear layers only"
        skipped = Reason("not_counted", -(c.forward_flops or 0), text)
        reasons = () if counted or not c.forward_flops else (skipped,)
        measured = c.forward_flops if counted else 0
        yield Row(c.layer, "forward_flops", instrument, c.forward_flops, reasons, measured)
    yield backward_row(c)


def backward_row(c):
    theory = c.backward_flops
    if c.layer == "block1.conv":
        text = "the image needs no gradient, so this layer's input gradient is never computed"
        reasons = (Reason("no_input_gradient", -c.input_gradient_flops, text),)
        return Row(
            c.layer, "backward_flops", "flop_counter", theory, reasons, c.weight_gradient_flops
        )
    counted = c.kind in ("conv2d", "linear")
    skipped = Reason(
        "not_counted", -(theory or 0), "flop_counter counts convolutions and linear only"
    )
    reasons = () if counted or not theory else (skipped,)
    return Row(c.layer, "backward_flops", "flop_counter", theory, reasons, theory if counted else 0)


def totals_of(rows):
    """Sums over the layers; reasons of one code and text together."""
    for key in dict.fromkeys((row.quantity, row.instrument) for row in rows):
        mine = [row for row in rows if (row.quantity, row.instrument) == key]
        amounts = {}
        for row in mine:
            for reason in row.reasons:
                amounts[reason.code, reason.text] = (
                    amounts.get((reason.code, reason.text), 0) + reason.amount
                )
        reasons = tuple(Reason(code, total, text) for (code, text), total in amounts.items())
        yield Row("total", *key, sum(r.theory or 0 for r in mine), reasons,
                  sum(r.measured for r in mine))  # fmt: skip


def times_of(spec, costs, machine):
    """Invented, but never faster than the roofline allows."""
    times = {}
    for c in costs.layers:
        moved = sum(bytes_moved(call) for call in spec.layers if call.key == c.layer)
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


def peak_of(network):
    """Theory's own; the measured timeline follows it with a dip at the start of every layer."""
    memory = step_memory(network, saved_memory(network))
    timeline, before = [], 0
    for number, moment in enumerate(memory.moments):
        layer = None if moment.phase == "loss" else moment.layer
        heights = (before, (before + moment.peak_bytes) // 2, moment.peak_bytes, moment.bytes_after)
        timeline += [
            MemoryPoint(1e-4 * number + 1e-5 * place, height, layer, moment.phase)
            for place, height in enumerate(heights)
        ]
        before = moment.bytes_after
    return Peak(
        predicted_bytes=memory.peak.peak_bytes, predicted_layer=memory.peak.layer,
        predicted_phase=memory.peak.phase, predicted_live_bytes=memory.live_peak_bytes,
        parts=memory.parts, predicted_timeline=memory.moments,
        measured_bytes=memory.peak.peak_bytes + 4, measured_layer=memory.peak.layer,
        measured_phase=memory.peak.phase, measured_live_bytes=memory.live_peak_bytes,
        scratch_bytes_at_peak=0, timeline=tuple(timeline),
        largest_batch={2**30: 1_530, 8 * 2**30: 12_700},
    )  # fmt: skip


def cifar_cnn_profile(**changes):
    """The whole profile; `changes` replace its fields."""
    return profile_of(CifarCNN(), (N, 3, 32, 32), **changes)


def profile_of(network, input_shape, **changes):
    """Of any network; what CifarCNN really does is then only an example of reasons."""
    spec = describe(network, input_shape)
    costs, peak = cost_table(spec, 4), peak_of(spec)
    rows = tuple(row for c in costs.layers for row in rows_of(c))
    machine = MachineCeilings(
        "AMD EPYC", "cpu", 1, "float32", 1024, "2.15.0", Spread(11.4e9, 11.1e9, 11.9e9),
        Spread(96.0e9, 91.0e9, 97.0e9),
    )  # fmt: skip
    step = times_of(spec, costs, machine)
    timings = layer_timings(spec, costs, step, machine)
    seconds = tuple(
        Row(t.layer, "forward_seconds", "time", None, (), t.forward.median) for t in timings
    )
    fields = {
        "settings": Settings(type(network).__name__, input_shape, train=True), "network": spec,
        "costs": costs, "rows": (*rows, *seconds),
        "totals": (*totals_of(rows), peak_row(peak)), "peak": peak,
        "times": timings, "step": step, "machine": machine,
        "notes": (),
    }  # fmt: skip
    return Profile(**(fields | changes))


def example_audit():
    """Three figures that agree and a wrong one."""
    rest = {"place": "table", "paraphrase": "what it is", "exact": 1, "formula": "1"}
    cells = [Cell(f"table, row {n}", "1 MB", "1.01 MB", "agrees", **rest) for n in range(3)]
    wrong = Cell("Total | all", EVIL, "23.8 MB", "wrong", **rest)
    return Audit((*cells, wrong), (Finding("a claim", "another", "for a reason"),))
