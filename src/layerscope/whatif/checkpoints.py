"""What a step costs that keeps only what goes into each block, and computes the block again."""

from collections.abc import Mapping

from layerscope.errors import UserError
from layerscope.whatif.findings import (
    Figure,
    Said,
    Subject,
    remarks,
)
from layerscope.whatif.variant_runs import VariantRun, is_below
from layerscope.whatif.variants import checkpointed
from layerscope.whatif.words import bytes_, code, count, percent, ratio, shortened


def checkpointing(subject: Subject) -> Said:
    """Keep what goes into each block, and compute the block again in the backward pass."""
    base = subject.base
    if not base.run.has_loss:
        raise UserError("there is no backward pass, since no parameter of it learns")
    variant, pieces = checkpointed(subject.network)
    paths = tuple(pieces)
    run = subject.run(variant)
    again = sum(run.forward_flops_below(path)[0] for path in paths)
    own, its = base.predicted, run.predicted
    figures = (
        Figure("bytes kept for backward", "B", its.saved_bytes, run.measured.saved_bytes),
        Figure(
            "bytes kept for backward, against this network",
            "×",
            ratio(its.saved_bytes, own.saved_bytes),
            ratio(run.measured.saved_bytes, base.measured.saved_bytes),
        ),
        Figure(
            "peak of a step above parameters, buffers and input",
            "B",
            its.peak_bytes,
            run.measured.peak_bytes,
        ),
        Figure(
            "peak of a step, against this network",
            "×",
            ratio(its.peak_bytes, own.peak_bytes),
            ratio(run.measured.peak_bytes, base.measured.peak_bytes),
        ),
        Figure(
            "backward FLOPs of convolutions and linear layers, the second forward among them",
            "FLOPs",
            its.backward_flops,
            run.measured.backward_flops,
        ),
    )
    runs = "" if all(names == (path,) for path, names in pieces.items()) else "runs of its layers, "
    text = f"With a checkpoint around {runs}{shortened([*map(_piece, pieces.values())])}, "
    text += "autograd keeps what goes into each and computes the rest again when its backward "
    text += f"pass begins{_kept_instead(base, run)}. "
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


def _kept_instead(base: VariantRun, run: VariantRun) -> str:
    kept, own = run.predicted.saved_bytes, base.predicted.saved_bytes
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
