"""What other tools print of the same network, and why it is not our figure."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version

from layerscope.reconcile.measurements import Measurements
from layerscope.reconcile.peak import Peak
from layerscope.reconcile.rows import Reason, Row


@dataclass(frozen=True)
class ToolFigure:
    """One figure that another tool prints: value = ours + the reasons' amounts.

    Args:
        version: empty for a tool that is no Python package.
        name: what the tool calls it.
        quantity: ours that it comes closest to; in its unit, of the whole batch.
        ours: None where it is not known; then there are no reasons.
        text: how the tool arrives at it.
    """

    tool: str
    version: str
    name: str
    value: int
    quantity: str
    ours: int | None
    reasons: tuple[Reason, ...]
    text: str


def other_tools(
    measured: Measurements, totals: Iterable[Row], peak: Peak
) -> tuple[ToolFigure, ...]:
    """Return the figures of the tools that ran: fvcore, torchinfo, on a GPU nvidia-smi."""
    rows = {(row.quantity, row.instrument): row for row in totals}
    return (
        *_of_fvcore(measured, rows.get(("macs", "fvcore"))),
        *_of_torchinfo(measured, [rows.get((name, "torchinfo")) for name in _TORCHINFO]),
        *_of_nvidia_smi(peak),
    )


def _of_fvcore(measured: Measurements, total: Row | None) -> Iterator[ToolFigure]:
    if measured.fvcore is None or total is None:
        return
    text = (
        "fvcore traces the forward pass and counts a multiply-accumulate as one. Norms and average "
        "pooling are in it; activations, max pooling and additions are not"
    )
    name, value = "FlopCountAnalysis.total()", measured.fvcore.total
    yield _figure("fvcore", version("fvcore"), name, value, total, text)


_TORCHINFO = ("macs", "num_parameters", "output_bytes")


def _of_torchinfo(measured: Measurements, totals: Sequence[Row | None]) -> Iterator[ToolFigure]:
    counts = measured.torchinfo
    if counts is None:
        return
    macs, parameters, outputs = totals
    texts = (
        "torchinfo multiplies each module's parameters by the sizes of its output. Biases and "
        "norms are in it. Of a linear layer only the batch counts, not its positions; a product of "
        "two activations does not count",
        "torchinfo adds up the parameters of every module, also of those that do not run",
        "torchinfo doubles the outputs of modules with parameters. It is neither what autograd "
        "saves (saved_bytes) nor what a step needs at one time (live_peak_bytes)",
    )
    named = (
        ("Total mult-adds", counts.total_mult_adds, macs),
        ("Total params", counts.total_params, parameters),
        ("Forward/backward pass size", counts.forward_backward_bytes, outputs),
    )
    for (name, value, total), text in zip(named, texts, strict=True):
        if total is not None:
            yield _figure("torchinfo", counts.version, name, value, total, text)


def _figure(
    tool: str, tool_version: str, name: str, value: int, total: Row, text: str
) -> ToolFigure:
    """Lead from the textbook's total to the tool's, by the reasons of the layers that it counts."""
    counted, rest = total.predicted, total.theory_not_counted
    ours, reasons = None, ()
    if counted is not None and total.theory is not None and rest is not None:
        ours = total.theory + rest
        reasons = (
            *total.reasons,
            *_reason("not_counted", -rest, "layers of which it counts nothing"),
            *_reason("unexplained", int(total.unexplained or 0), "what no reason explains"),
            *_reason(
                "elsewhere",
                value - int(total.measured or 0),
                "modules that are no layer here, are pruned, or do not run",
            ),
        )
    return ToolFigure(tool, tool_version, name, value, total.quantity, ours, reasons, text)


def _reason(code: str, amount: int, text: str) -> tuple[Reason, ...]:
    return (Reason(code, amount, text),) if amount else ()


def _of_nvidia_smi(peak: Peak) -> Iterator[ToolFigure]:
    if peak.device_stages is None:
        return
    used = sum(stage.num_bytes for stage in peak.device_stages)
    predicted = peak.predicted_live_bytes
    reasons: tuple[Reason, ...] = ()
    if predicted is not None:
        live, *others = peak.device_stages
        text = "the live peak as it was measured, and as it was predicted"
        reasons = _reason("unexplained", live.num_bytes - predicted, text)
        reasons += tuple(Reason(each.name, each.num_bytes, each.text) for each in others)
    text = (
        "nvidia-smi shows what is taken of the whole card, the allocator's cache and the CUDA "
        "context included; it does not shrink when tensors are freed"
    )
    yield ToolFigure(
        "nvidia-smi", "", "Memory-Usage", used, "live_peak_bytes", predicted, reasons, text
    )
