"""Why a layer's output occupies, and autograd keeps, something else than the textbook says."""

from collections.abc import Iterator

from layerscope.layers.spec import LayerSpec, NetworkSpec
from layerscope.reconcile.rows import UNKNOWN, Reason
from layerscope.theory.kept import Kept
from layerscope.theory.kinds import KINDS
from layerscope.theory.saved import SavedMemory
from layerscope.theory.table import textbook_output_bytes


def output_bytes_reasons(network: NetworkSpec, call: int, element_size: int) -> tuple[Reason, ...]:
    """From the textbook's output bytes to the new storages that this call returns."""
    spec = network.layers[call]
    theory = textbook_output_bytes(spec, element_size)
    own = sum(network.storages[storage].num_bytes for storage in own_outputs(network, call))
    if not own:
        return _nothing_new(spec, theory)
    if not theory:
        return (Reason("copied", own, "the strides allow no view: it copies"),)
    reasons: list[Reason] = []
    seen = 0
    for tensor in spec.outputs:
        stored = tensor.num_elements * tensor.dtype.itemsize
        difference = stored - tensor.num_elements * element_size
        seen += stored
        if difference:
            name = str(tensor.dtype).removeprefix("torch.")
            code = "low_precision" if difference < 0 else "wider_type"
            reasons.append(Reason(code, difference, f"the output is {name}"))
    if own != seen:
        reasons.append(
            Reason("storage", own - seen, "its storages and the tensors in them differ in size")
        )
    return tuple(reasons)


def saved_bytes_reasons(
    network: NetworkSpec, saved: SavedMemory, call: int, element_size: int
) -> tuple[Reason, ...]:
    """From the textbook's output bytes to what autograd holds of this call's allocations."""
    return (
        *output_bytes_reasons(network, call, element_size),
        *_dropped_outputs(network, saved, call),
        *(_own_memory(item) for item in saved.own.get(call, ())),
        *_unknown(network, saved, call),
    )


def own_outputs(network: NetworkSpec, call: int) -> tuple[int, ...]:
    """The storages that this call allocated and returned, each once."""
    storages = dict.fromkeys(tensor.storage for tensor in network.layers[call].outputs)
    return tuple(storage for storage in storages if network.storages[storage].call == call)


def _nothing_new(spec: LayerSpec, theory: int) -> tuple[Reason, ...]:
    if not theory:
        return ()
    if spec.in_place:
        return (Reason("in_place", -theory, "it writes into its input's memory"),)
    return (Reason("returns_input", -theory, f"this {spec.kind} returns its input as it is"),)


def _dropped_outputs(network: NetworkSpec, saved: SavedMemory, call: int) -> Iterator[Reason]:
    for storage in own_outputs(network, call):
        if storage not in saved.storages and network.storages[storage].num_bytes:
            code, text = _why_dropped(network, saved, call, storage)
            yield Reason(code, -network.storages[storage].num_bytes, text)


def _why_dropped(
    network: NetworkSpec, saved: SavedMemory, call: int, storage: int
) -> tuple[str, str]:
    readers = [
        spec
        for number, spec in enumerate(network.layers)
        if number in saved.recording
        and any(tensor.storage == storage for tensor in spec.inputs)
        and not _passes_on(spec)
    ]
    if not network.layers[call].records_gradient and not readers:
        return "no_gradient", "nothing here or behind it needs a gradient of it"
    if not readers:
        return "output_not_kept", "no layer's backward pass reads it"
    names = ", ".join(dict.fromkeys(f"{spec.key} ({spec.kind})" for spec in readers))
    return "output_not_kept", f"the backward pass of {names} does not read it"


def _passes_on(spec: LayerSpec) -> bool:
    kind = KINDS.get(spec.kind)
    return kind is not None and kind.is_view


_OWN_TEXTS = {
    "indices": "where each maximum was: an int64 per output",
    "statistics": "mean and inverse deviation of what it normalised",
    "mask": "which values were dropped",
    "noise": "which rows were dropped",
    "log_probabilities": "the logarithms of the probabilities",
    "weight_sum": "the sum of the labels' weights",
    "input_copy": "a copy of its input",
    "padded_input": "the input with its padding, made by a step of its own",
    "repeated_weight": "a copy of its weight for every image",
}


def _own_memory(item: Kept) -> Reason:
    if item.code == "autocast_copy":
        of = item.parameter or "input"
        return Reason(item.code, item.num_bytes, f"the low-precision copy of its {of}")
    return Reason(item.code, item.num_bytes, _OWN_TEXTS[item.code])


def _unknown(network: NetworkSpec, saved: SavedMemory, call: int) -> Iterator[Reason]:
    """Reasons of no amount: the row has no prediction."""
    if call in saved.unknown:
        kind = network.layers[call].kind
        yield Reason(UNKNOWN, 0, f"it is not known what {kind} keeps")
    if network.num_unseen and network.layers[call].records_gradient:
        yield Reason(UNKNOWN, 0, "something that is no layer runs here, and may keep it")
    for storage in own_outputs(network, call):
        for reader in saved.unknown:
            spec = network.layers[reader]
            if reader != call and any(tensor.storage == storage for tensor in spec.inputs):
                yield Reason(
                    UNKNOWN, 0, f"it is not known whether {spec.key} ({spec.kind}) keeps it"
                )
