"""One step that gives both the activations and the dispatcher's FLOPs."""

from layerscope.measure.activations import ActivationRecord, ActivationRecorder
from layerscope.measure.flop_counter import FlopCounts, FlopRecorder
from layerscope.measure.step import Step


def step_activations(step: Step) -> ActivationRecord:
    """Run the step once and record it. The network is left as it was.

    Raises:
        UserError: the network does not run.
    """
    with step.preserve_state(), ActivationRecorder(step.network) as recorder:
        step.run()
    return recorder.record


def activations_and_flops(step: Step) -> tuple[ActivationRecord, FlopCounts]:
    """Return the results of `step_activations` and `flop_counts` from a single step.

    Raises:
        UserError: the network does not run.
    """
    recorder = ActivationRecorder(step.network)
    with step.preserve_state(), FlopRecorder(step.network, recorder.tracker) as flops, recorder:
        step.run()
    return recorder.record, flops.counts
