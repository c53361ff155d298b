"""What a step costs that keeps only what goes into each block, and computes the block again."""

from collections.abc import Mapping

from layerscope.errors import UserError
from layerscope.explain.analysis.findings import (
    Figure,
    Said,
    Subject,
    remarks,
)
from layerscope.explain.analysis.variant_runs import VariantRun, is_below
from layerscope.explain.analysis.variants import checkpointed
from layerscope.explain.analysis.words import bytes_, code, count, percent, ratio, shortened


def checkpointing(subject: Subject) -> Said:
    """Keep what goes into each block, and compute the block again in the backward pass."""
    base = subject.base
    if not base.account.saved.recording:
        raise UserError("there is no backward pass, since no parameter of it learns")
    variant, pieces = checkpointed(subject.network)
    paths = tuple(pieces)
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
    runs = "" if all(names == (path,) for path, names in pieces.items()) else "runs of its layers, "
    text = f"With a checkpoint around {runs}{shortened([*map(_piece, pieces.values())])}, "
    text += "autograd keeps what goes into each and computes the rest again when its backward "
    text += f"pass begins{_kept_instead(base, run, kept)}. "
    if own.forward_flops:
        text += (
            f"The price is {count(again)} FLOPs of convolutions and linear layers, "
            f"{percent(again, own.forward_flops)} of the forward pass, a second time in every "
            "step. "
        )
    text += _about_peak(base, run, pieces)
    if _has_running_statistics(run, paths):
        text += "Batch norm updates its running statistics twice, once in each forward pass."
    return Said(text.rstrip() + remarks(run, figures), figures)


def _piece(names: tuple[str, ...]) -> str:
    """The layers that one checkpoint is around."""
    return code(names[0]) if len(names) == 1 else f"{code(names[0])} to {code(names[-1])}"


def _kept_instead(base: VariantRun, run: VariantRun, kept: int | None) -> str:
    own = base.predicted.saved_bytes
    if kept is not None and own is not None:
        return f": {bytes_(kept)} instead of {bytes_(own)}"
    its, own = run.measured.saved_bytes, base.measured.saved_bytes
    if its is None or own is None:
        return ""
    return f": measured, {bytes_(its)} instead of {bytes_(own)}"


def _about_peak(base: VariantRun, run: VariantRun, pieces: Mapping[str, tuple[str, ...]]) -> str:
    before, after = base.measured.peak_bytes, run.measured.peak_bytes
    if before is None or after is None or run.timeline is None:
        return ""
    changes = (
        f"stays {bytes_(after)}"
        if before == after
        else f"becomes {bytes_(after)} instead of {bytes_(before)}"
    )
    text = f"The peak, measured, {changes}"
    layer, phase = run.timeline.peak_layer, run.timeline.peak_phase
    inside = None if layer is None else next((p for p in pieces if is_below(layer, p)), None)
    if layer is None:
        return f"{text}, reached in the loss. "
    if inside is None:
        return f"{text}, reached in {code(layer)}, {phase}. "
    own_name = layer if pieces[inside] == (inside,) else layer.removeprefix(f"{inside}.")
    text += f", reached in {code(own_name)}, {phase}"
    if phase != "backward":
        return f"{text}. "
    return (
        f"{text}: while the gradients of {_piece(pieces[inside])} are computed, all that is inside "
        "is there again. "
    )


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
