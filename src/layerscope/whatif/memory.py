"""What a step's memory becomes with an optimizer, and in half precision."""

from dataclasses import dataclass

import torch

from layerscope.dry_run import DryRun
from layerscope.errors import UserError
from layerscope.measure.optimizer_state import OptimizerState, optimizer_state
from layerscope.whatif.findings import (
    Figure,
    Said,
    Subject,
    compared,
    figures_of,
    remarks,
)
from layerscope.whatif.variant_runs import VariantRun
from layerscope.whatif.variants import skeleton
from layerscope.whatif.words import bytes_, percent, times

_HALF = torch.bfloat16
_WHOLE = "the whole step's peak, with parameters, buffers, input and state"


@dataclass(frozen=True)
class OptimizerMemory:
    """What an optimizer needs beside parameters and gradients.

    Args:
        num_states: numbers kept for every parameter.
        num_temporaries: copies of one parameter while it is updated, one parameter after the other.
    """

    num_states: int
    num_temporaries: int


OPTIMIZERS = {
    "sgd": OptimizerMemory(0, 0),
    "momentum": OptimizerMemory(1, 0),
    "adam": OptimizerMemory(2, 2),
}
_NAMES = {"sgd": "SGD", "momentum": "SGD with momentum", "adam": "Adam"}


def optimizers(subject: Subject) -> Said:
    """What each adds to the memory, and how much that is of a whole step's."""
    base = subject.base
    learning = [p for p in base.network.parameters() if p.requires_grad]
    if not learning:
        raise UserError("no parameter of it learns")
    figures: list[Figure] = []
    records = {name: _optimizer_record(base, name) for name in OPTIMIZERS}
    whole: dict[str, int | None] = {}
    for name, memory in OPTIMIZERS.items():
        record = records[name]
        whole[name] = _whole_step_bytes(base, memory)
        state = memory.num_states * sum(parameter.nbytes for parameter in learning)
        label = _NAMES[name]
        figures += [
            Figure(f"{label}: state", "B", state, record.state_bytes if record else None),
            Figure(
                f"{label}: {_WHOLE}",
                "B",
                whole[name],
                _whole_step_measured(base, record),
            ),
        ]
    figures += _temporaries(learning, records["adam"])
    state = 2 * sum(parameter.nbytes for parameter in learning)
    text = (
        "SGD keeps nothing between its steps, momentum one number for each parameter that learns, "
        f"Adam two: {bytes_(state // 2)} and {bytes_(state)} beside "
        f"{bytes_(base.run.parameter_bytes)} of parameters. {_about_whole_step(figures, state)}"
        "While it updates one parameter, Adam takes up to two copies of it in passing. "
        f"{_about_temporaries(learning, records['adam'])}"
    )
    measured, predicted = _whole_step_measured(base, records["adam"]), whole["adam"]
    if measured is not None and predicted is not None and measured != predicted:
        text += f" The whole step's peak with Adam differs by {measured - predicted:+,} B"
        passing = next(figure for figure in figures if figure.name.startswith("Adam: in passing"))
        is_update = measured - predicted == (passing.measured or 0) - (passing.predicted or 0)
        text += ", too: it is reached in the update." if is_update else ", unexplained."
    if base.too_large:
        text += f" It was not run: {base.too_large}."
    return Said(text.rstrip(), tuple(figures))


def _about_whole_step(figures: list[Figure], state: int) -> str:
    """As predicted; where that is not known, as measured."""
    found = {figure.name: figure for figure in figures}
    sgd, adam = (found[f"{_NAMES[name]}: {_WHOLE}"] for name in ("sgd", "adam"))
    pairs = ((sgd.predicted, adam.predicted, ""), (sgd.measured, adam.measured, ", measured,"))
    for before, after, how in pairs:
        if before and after:
            return (
                "The step's memory is not tripled, since activations and gradients have no such "
                f"state: with all there is, the peak{how} goes from {bytes_(int(before))} to "
                f"{bytes_(int(after))}, {times(after, before)}, and Adam's moments are "
                f"{percent(state, after)} of it. "
            )
    return ""


def _optimizer_record(run: VariantRun, name: str) -> OptimizerState | None:
    if run.too_large:
        return None
    step = run.step
    with step.untouched():
        learning = [parameter for parameter in run.network.parameters() if parameter.requires_grad]
        for parameter in learning:
            parameter.grad = torch.zeros_like(parameter)
        return optimizer_state(_optimizer(name, learning))


def _optimizer(name: str, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    if name == "adam":
        return torch.optim.Adam(parameters, 1e-3, foreach=False)
    return torch.optim.SGD(parameters, 1e-3, 0.9 if name == "momentum" else 0.0, foreach=False)


def _standing_bytes(run: DryRun) -> int:
    """Return the bytes of parameters, buffers and the input."""
    inputs = sum(tensor.num_bytes for tensor in run.inputs)
    return run.parameter_bytes + run.buffer_bytes + inputs


def _learning_bytes(run: DryRun) -> list[int]:
    """Return the bytes of each parameter that gets a gradient."""
    sizes = {
        tensor.storage: tensor.num_bytes
        for call in run.layers
        for tensor in call.parameters.values()
        if tensor.requires_grad
    }
    return list(sizes.values())


def _whole_step_bytes(run: VariantRun, memory: OptimizerMemory) -> int | None:
    if run.predicted.peak_bytes is None:
        return None
    sizes = _learning_bytes(run.run)
    gradients = sum(sizes)
    update = gradients + memory.num_temporaries * max(sizes, default=0)
    state = memory.num_states * gradients
    return _standing_bytes(run.run) + state + max(run.predicted.peak_bytes, update)


def _whole_step_measured(run: VariantRun, record: OptimizerState | None) -> int | None:
    if record is None or run.measured.peak_bytes is None:
        return None
    network = run.network
    tensors = [*network.parameters(), *network.buffers(), *run.step.args]
    gradients = sum(
        parameter.nbytes for parameter in network.parameters() if parameter.requires_grad
    )
    update = gradients + record.temporary_bytes
    standing = sum(tensor.nbytes for tensor in tensors)
    return standing + record.state_bytes + max(run.measured.peak_bytes, update)


def _temporaries(learning: list[torch.nn.Parameter], record: OptimizerState | None) -> list[Figure]:
    sizes = [parameter.nbytes for parameter in learning]
    return [
        Figure(
            "Adam: in passing, while it updates the largest parameter",
            "B",
            OPTIMIZERS["adam"].num_temporaries * max(sizes),
            record.temporary_bytes if record else None,
        ),
        Figure(
            "Adam: counters of steps, one number for each parameter tensor",
            "B",
            len(sizes) * torch.float32.itemsize,
            record.counter_bytes if record else None,
        ),
    ]


def _about_temporaries(learning: list[torch.nn.Parameter], record: OptimizerState | None) -> str:
    """Where the measured ones differ: the last copy of the parameter before is still held."""
    if record is None:
        return ""
    sizes = [parameter.nbytes for parameter in learning]
    per_parameter = OPTIMIZERS["adam"].num_temporaries
    copies = per_parameter * max(sizes)
    before = [0, *sizes[:-1]]
    held = max(per_parameter * at + last for at, last in zip(sizes, before, strict=True)) - copies
    if record.temporary_bytes == copies:
        return ""
    return (
        f"Measured are {bytes_(record.temporary_bytes)} instead of {bytes_(copies)}: the last "
        f"copy of the parameter before, {bytes_(held)}, is still held, and single numbers take "
        f"{bytes_(record.temporary_bytes - copies - held)}."
    )


def half_precision(subject: Subject) -> Said:
    """The same network in bfloat16."""
    base = subject.base
    if base.dtype.itemsize <= _HALF.itemsize:
        name = str(base.dtype).removeprefix("torch.")
        raise UserError(f"it is in {name} already")
    run = subject.run(skeleton(subject.network, _HALF))
    figures = figures_of(
        run, "parameter_bytes", "output_bytes", "saved_bytes", "peak_bytes", base=base
    )
    text = (
        f"In bfloat16 an element takes {_HALF.itemsize} B instead of {base.dtype.itemsize} B: "
        f"{_shrinking(base, run)}. {_what_stays(base, run)}"
        "The FLOPs stay; their speed is the machine's. This is the network itself in bfloat16; "
        "under autocast parameters and their gradients stay as they are, and copies of the weights "
        "come on top."
    )
    return Said(text + remarks(run, figures), figures)


_SHRINKING = {
    "parameter_bytes": "the parameters",
    "output_bytes": "the outputs",
    "saved_bytes": "what autograd keeps",
    "peak_bytes": "the peak",
}


def _shrinking(base: VariantRun, run: VariantRun) -> str:
    parts = []
    for quantity, name in _SHRINKING.items():
        both = compared(base, run, quantity)
        if both is not None and both.its:
            sizes = f", from {bytes_(both.own)} to {both.bytes_}"
            parts.append(f"{name} shrink{_s(name)} {times(both.own, both.its)}{sizes}")
    return "; ".join(parts)


def _s(name: str) -> str:
    return "" if name.endswith("s") and name.startswith("the ") else "s"


def _what_stays(own: VariantRun, half: VariantRun) -> str:
    """The part of what is kept that is no smaller."""
    pieces = half.saved_pieces
    indices = sum(num_bytes for (what, _), num_bytes in pieces.items() if what == "indices")
    before, after = own.predicted.saved_bytes, half.predicted.saved_bytes
    if not indices or before is None or after is None or after == indices:
        return ""
    return (
        f"Max pooling's indices are int64 in any precision, {bytes_(indices)} of what is kept; "
        f"without them it would shrink {times(before - indices, after - indices)}. "
    )
