"""Which quantity each instrument is held against, and for which reasons it may differ."""

from collections.abc import Callable, Mapping

from layerscope.layers import LayerSpec, calls_that_matter
from layerscope.measure import ActivationRecord, FlopCounts
from layerscope.reconcile.account import Account
from layerscope.reconcile.flops import (
    Reasons,
    bias_gradient_reasons,
    counter_backward_reasons,
    counter_forward_reasons,
    fvcore_flops_reasons,
    fvcore_macs_reasons,
    fvcore_untraced_reasons,
    profiler_backward_reasons,
    profiler_forward_reasons,
)
from layerscope.reconcile.measurements import Measurements, by_layer
from layerscope.reconcile.memory import output_bytes_reasons, saved_bytes_reasons
from layerscope.reconcile.rows import Reason, Row
from layerscope.theory.step import StepMemory

Rows = tuple[Row, ...]


def row_groups(
    theory: Account, paper: StepMemory, measured: Measurements, instruments: frozenset[str]
) -> tuple[Rows, ...]:
    """The rows of all layers, together by quantity and instrument.

    Args:
        paper: the step's memory as predicted, which says where gradients are added.
    """
    groups: list[Rows] = []
    if measured.activations is not None and "outputs" in instruments:
        groups += _output_rows(theory, measured.activations)
    if measured.activations is not None and "saved" in instruments:
        groups += [_saved_rows(theory, measured.activations)]
    if measured.fvcore is not None:
        groups += _fvcore_rows(theory, measured.fvcore.layers)
    if measured.flop_counter is not None:
        groups += _counter_rows(theory, measured.flop_counter)
    if measured.profiler is not None:
        groups += _profiler_rows(theory, paper, measured.profiler)
    return tuple(groups)


def _output_rows(theory: Account, record: ActivationRecord) -> list[Rows]:
    def output_bytes(call: int) -> tuple[Reason, ...]:
        return output_bytes_reasons(theory.network, call, theory.element_size)

    def parameter_bytes(call: int) -> tuple[Reason, ...]:
        spec = theory.network.layers[call]
        difference = spec.parameter_bytes - spec.num_parameters * theory.element_size
        text = "its parameters have another dtype than the input"
        return (Reason("parameter_type", difference, text),) if difference else ()

    reasons = {
        "output_elements": _none,
        "num_parameters": _none,
        "parameter_bytes": parameter_bytes,
        "buffer_bytes": _none,
        "output_bytes": output_bytes,
    }
    return [
        theory.rows(quantity, "outputs", by_layer(record, quantity), reasons_of)
        for quantity, reasons_of in reasons.items()
    ]


def input_row(theory: Account, record: ActivationRecord) -> Row:
    """The network's input is a row of its own, and in no total."""
    actual = sum(tensor.num_bytes for tensor in theory.network.inputs)
    difference = actual - theory.costs.input_bytes
    reasons = (Reason("wider_type", difference, "it has another dtype"),) if difference else ()
    return Row(
        "input", "output_bytes", "outputs", theory.costs.input_bytes, reasons, record.input_bytes
    )


def _saved_rows(theory: Account, record: ActivationRecord) -> Rows:
    return theory.rows(
        "saved_bytes",
        "saved",
        by_layer(record, "saved_bytes"),
        lambda call: saved_bytes_reasons(theory.network, theory.saved, call, theory.element_size),
    )


def _fvcore_rows(theory: Account, counts: Mapping[str, int]) -> list[Rows]:
    traced = calls_that_matter(theory.network)

    def reasons_by(reasons_of: Callable[[LayerSpec], Reasons]) -> Callable[[int], Reasons]:
        def of_call(call: int) -> Reasons:
            spec = theory.network.layers[call]
            untraced = () if call in traced else fvcore_untraced_reasons(spec)
            return (*reasons_of(spec), *untraced)

        return of_call

    return [
        theory.rows("macs", "fvcore", counts, reasons_by(fvcore_macs_reasons)),
        theory.rows("forward_flops", "fvcore", counts, reasons_by(fvcore_flops_reasons)),
    ]


def _counter_rows(theory: Account, counts: FlopCounts) -> list[Rows]:
    network, saved = theory.network, theory.saved
    return [
        theory.rows(
            "forward_flops",
            "flop_counter",
            counts.forward,
            lambda call: counter_forward_reasons(network.layers[call]),
        ),
        theory.rows(
            "backward_flops",
            "flop_counter",
            counts.backward,
            lambda call: counter_backward_reasons(network, saved, call),
        ),
        theory.rows(
            "bias_gradient_flops",
            "flop_counter",
            counts.bias_gradient,
            lambda call: bias_gradient_reasons(network.layers[call]),
        ),
    ]


def _profiler_rows(theory: Account, paper: StepMemory, counts: FlopCounts) -> list[Rows]:
    network, saved = theory.network, theory.saved
    under_autocast = network.autocast is not None
    return [
        theory.rows(
            "forward_flops",
            "profiler",
            counts.forward,
            lambda call: profiler_forward_reasons(network.layers[call], under_autocast),
        ),
        theory.rows(
            "backward_flops",
            "profiler",
            counts.backward,
            lambda call: profiler_backward_reasons(
                network, saved, paper.accumulated.get(call, 0), call
            ),
        ),
    ]


def _none(call: int) -> tuple[Reason, ...]:
    return ()
