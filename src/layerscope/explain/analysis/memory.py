"""What a step's memory becomes with an optimizer, in half precision, and with checkpoints."""

import torch

from layerscope.errors import UserError
from layerscope.explain.analysis.findings import (
    Figure,
    Said,
    Subject,
    bytes_,
    code,
    count,
    figures_of,
    percent,
    pieces,
    ratio,
    remarks,
    times,
)
from layerscope.explain.analysis.variant_runs import VariantRun, is_below, parameter_bytes
from layerscope.explain.analysis.variants import checkpointed, skeleton
from layerscope.layers import NetworkSpec
from layerscope.measure.optimizer_state import OptimizerState, optimizer_state
from layerscope.theory.capacity import OPTIMIZERS, OptimizerMemory, optimizer_step_bytes

_HALF = torch.bfloat16
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
                f"{label}: the whole step's peak, with parameters, buffers, input and state",
                "B",
                whole[name],
                _whole_step_measured(base, record),
            ),
        ]
    figures += _temporaries(learning, records["adam"])
    state = 2 * sum(parameter.nbytes for parameter in learning)
    text = (
        "SGD keeps nothing between its steps, momentum one number for each parameter, Adam two: "
        f"{bytes_(state // 2)} and {bytes_(state)} beside {bytes_(parameter_bytes(base.spec))} of "
        "parameters. Only these are tripled, not the step's memory, since activations and "
        "gradients have no such state: with all there is, the peak goes from "
        f"{bytes_(whole['sgd'])} to {bytes_(whole['adam'])}, "
        f"{times(whole['adam'], whole['sgd'])}, and Adam's moments are "
        f"{percent(state, whole['adam'])} of it. While it updates one parameter, Adam takes up to "
        f"two copies of it in passing. {_about_temporaries(learning, records['adam'])}"
    )
    measured = _whole_step_measured(base, records["adam"])
    if None not in (measured, whole["adam"]) and measured != whole["adam"]:
        text += " The whole step's peak with Adam differs by as much: it is reached in the update."
    if base.too_large:
        text += f" It was not run: {base.too_large}."
    return Said(text.rstrip(), tuple(figures))


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


def _standing_bytes(spec: NetworkSpec) -> int:
    """Parameters, buffers and the input."""
    buffers = sum(layer.buffer_bytes for layer in spec.layers) + spec.unused_buffer_bytes
    return parameter_bytes(spec) + buffers + sum(tensor.num_bytes for tensor in spec.inputs)


def _whole_step_bytes(run: VariantRun, memory: OptimizerMemory) -> int | None:
    if run.predicted.peak_bytes is None:
        return None
    update = optimizer_step_bytes(run.spec, memory)
    learning = optimizer_step_bytes(run.spec, OPTIMIZERS["sgd"])  # one gradient for each
    state = memory.num_states * learning
    return _standing_bytes(run.spec) + state + max(run.predicted.peak_bytes, update)


def _whole_step_measured(run: VariantRun, record: OptimizerState | None) -> int | None:
    if record is None or run.measured.peak_bytes is None:
        return None
    network = run.network
    tensors = [*network.parameters(), *network.buffers(), run.step.image]
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
        f"copy of the parameter before ({bytes_(held)}) is still held, and single numbers take "
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
    own, half = base.predicted, run.predicted
    size = base.dtype.itemsize
    text = (
        f"In bfloat16 an element takes {_HALF.itemsize} B instead of {size} B. Parameters and "
        f"outputs shrink {times(own.output_bytes, half.output_bytes)}; what autograd keeps "
        f"{times(own.saved_bytes, half.saved_bytes)}, from {bytes_(own.saved_bytes)} to "
        f"{bytes_(half.saved_bytes)}; the peak {times(own.peak_bytes, half.peak_bytes)}, from "
        f"{bytes_(own.peak_bytes)} to {bytes_(half.peak_bytes)}. {_what_stays(base, run)}"
        "The FLOPs stay; their speed is the machine's. This is the network itself in bfloat16; "
        "under autocast parameters and their gradients stay as they are, and copies of the weights "
        "come on top."
    )
    return Said(text + remarks(run, figures), figures)


def _what_stays(own: VariantRun, half: VariantRun) -> str:
    """The part of what is kept that is no smaller."""
    kept = half.account.saved.own.values()
    indices = sum(item.num_bytes for items in kept for item in items if item.code == "indices")
    before, after = own.predicted.saved_bytes, half.predicted.saved_bytes
    if not indices or before is None or after is None:
        return ""
    return (
        f"Max pooling's indices are int64 in any precision, {bytes_(indices)} of what is kept; "
        f"without them it would shrink {times(before - indices, after - indices)}. "
    )


def checkpointing(subject: Subject) -> Said:
    """Keep what goes into each block, and compute the block again in the backward pass."""
    base = subject.base
    variant, paths = checkpointed(subject.network)
    run = subject.run(variant)
    kept = _kept_with_checkpoints(run, paths)
    again = sum(run.forward_flops_below(path)[0] for path in paths)
    own = base.predicted
    backward = (
        None if run.predicted.backward_flops is None else run.predicted.backward_flops + again
    )
    figures = (
        Figure("bytes kept for backward", "B", kept, run.measured.saved_bytes),
        Figure(
            "bytes kept for backward, against this network",
            "×",
            ratio(kept, own.saved_bytes),
            ratio(run.measured.saved_bytes, base.measured.saved_bytes),
        ),
        Figure(
            "peak of a step above parameters, buffers and input",
            "B",
            None,
            run.measured.peak_bytes,
        ),
        Figure(
            "peak of a step, against this network",
            "×",
            None,
            ratio(run.measured.peak_bytes, base.measured.peak_bytes),
        ),
        Figure(
            "backward FLOPs of convolutions and linear layers, the second forward among them",
            "FLOPs",
            backward,
            run.measured.backward_flops,
        ),
    )
    around = pieces(subject.network, variant, paths)
    text = (
        f"With a checkpoint around {around}, autograd keeps what goes "
        f"into each and computes the rest again when its backward pass begins: {bytes_(kept)} "
        f"instead of {bytes_(own.saved_bytes)}. The price is {count(again)} FLOPs of convolutions "
        f"and linear layers, {percent(again, own.forward_flops)} of the forward pass, a second "
        f"time in every step. {_about_peak(base, run)}"
    )
    if _has_running_statistics(run, paths):
        text += "Batch norm updates its running statistics twice, once in each forward pass."
    return Said(text.rstrip() + remarks(run, figures), figures)


def _about_peak(base: VariantRun, run: VariantRun) -> str:
    if run.measured.peak_bytes is None:
        return ""
    return (
        f"The peak, measured, is {bytes_(run.measured.peak_bytes)} instead of "
        f"{bytes_(base.measured.peak_bytes)}, and reached in {_peak_place(run)}: while a block's "
        "gradients are computed, all that is inside of it is there again. "
    )


def _peak_place(run: VariantRun) -> str:
    layer = None if run.timeline is None else run.timeline.peak_layer
    phase = None if run.timeline is None else run.timeline.peak_phase
    return "the loss" if layer is None else f"{code(layer)}, {phase}"


def _has_running_statistics(run: VariantRun, paths: tuple[str, ...]) -> bool:
    return any(
        spec.kind == "batch_norm"
        and spec.geometry.get("training")
        and any(is_below(spec.key, path) for path in paths)
        for spec in run.spec.layers
    )


def _kept_with_checkpoints(run: VariantRun, paths: tuple[str, ...]) -> int | None:
    """What layers allocated and goes into a checkpoint, or is kept outside of all of them."""
    spec, saved = run.spec, run.account.saved
    if spec.num_unseen or saved.unknown:
        return None
    inside = {
        call: path
        for call, layer in enumerate(spec.layers)
        for path in paths
        if is_below(layer.key, path)
    }
    holders = {call for calls in saved.storages.values() for call in calls} | saved.own.keys()
    keeping = {inside[call] for call in holders if call in inside}  # the others hold not even that
    storages = {
        storage
        for storage, calls in saved.storages.items()
        if any(call not in inside for call in calls)
    }
    for call, path in inside.items():
        for tensor in spec.layers[call].arguments:
            storage = spec.storages[tensor.storage]
            is_needed = path in keeping and storage.origin == "layer"
            if is_needed and inside.get(storage.call or 0) != path:
                storages.add(tensor.storage)
    own = sum(
        item.num_bytes for call, items in saved.own.items() if call not in inside for item in items
    )
    return own + sum(spec.storages[storage].num_bytes for storage in storages)
