"""Reasons why a layer's output bytes and saved bytes differ from the textbook."""

from layerscope.dry_run import LayerCall
from layerscope.operations import saved_role
from layerscope.reconcile.account import Account
from layerscope.reconcile.rows import Reason
from layerscope.theory.table import textbook_output_bytes


def output_bytes_reasons(account: Account, layer: str) -> tuple[Reason, ...]:
    """Explain why a layer's new storages differ from the textbook's output bytes."""
    return tuple(
        reason for call in account.calls.get(layer, ()) for reason in _output_reasons(account, call)
    )


def saved_bytes_reasons(account: Account, layer: str) -> tuple[Reason, ...]:
    """Explain why autograd saves other bytes of a layer than its outputs."""
    if account.saved is None:
        return _by_dry_run(account, layer)
    own = {s for call in account.calls.get(layer, ()) for s in _own_outputs(account, call)}
    return (
        *output_bytes_reasons(account, layer),
        *(
            _dropped(account, storage)
            for storage in sorted(own - account.saved.storages)
            if _size(account, storage)
        ),
        *(
            _inner(account, s)
            for s in account.saved_by_layer.get(layer, ())
            if s not in own and _size(account, s)
        ),
    )


def _by_dry_run(account: Account, layer: str) -> tuple[Reason, ...]:
    """Return the difference that the dry run's hooks saw; this torch version has no table."""
    cost = account.layers.get(layer)
    theory = 0 if cost is None else cost.output_bytes
    storages = {record.storage for record in account.run.saved}
    saved = sum(_size(account, s) for s in storages if account.run.allocating_layer(s) == layer)
    text = (
        "what autograd saves, as the dry run saw it: this version of torch has no table of reasons"
    )
    return (Reason("dry_run", saved - theory, text, "dry_run"),) if saved != theory else ()


def _size(account: Account, storage: int) -> int:
    return account.run.storages[storage].num_bytes


def _own_outputs(account: Account, call: LayerCall) -> tuple[int, ...]:
    """Return the storages that this call allocated and returned, each once."""
    storages = dict.fromkeys(tensor.storage for tensor in call.outputs)
    return tuple(s for s in storages if account.run.storages[s].operation in call.operations)


def _output_reasons(account: Account, call: LayerCall) -> tuple[Reason, ...]:
    units = list(account.units_by_call.get(call.number, ()))
    theory = textbook_output_bytes(call, units, account.element_size)
    own = sum(_size(account, storage) for storage in _own_outputs(account, call))
    if not own:
        return _nothing_new(call, theory)
    if not theory:
        return (Reason("copied", own, "the strides allow no view: it copies"),)
    reasons: list[Reason] = []
    seen = 0
    for tensor in call.outputs:
        stored = tensor.num_elements * tensor.dtype.itemsize
        difference = stored - tensor.num_elements * account.element_size
        seen += stored
        if difference:
            name = str(tensor.dtype).removeprefix("torch.")
            code = "low_precision" if difference < 0 else "wider_type"
            reasons.append(Reason(code, difference, f"the output is {name}"))
    if own != seen:
        text = "its storages and the tensors in them differ in size"
        reasons.append(Reason("storage", own - seen, text))
    return tuple(reasons)


def _nothing_new(call: LayerCall, theory: int) -> tuple[Reason, ...]:
    if not theory:
        return ()
    if call.in_place:
        return (Reason("in_place", -theory, "it writes into its input's memory"),)
    return (Reason("returns_input", -theory, f"this {call.type} returns its input as it is"),)


def _dropped(account: Account, storage: int) -> Reason:
    """Name the reason why autograd does not save a layer's output."""
    code, text = _why_dropped(account, storage)
    return Reason(code, -_size(account, storage), text)


def _why_dropped(account: Account, storage: int) -> tuple[str, str]:
    run = account.run
    made_by = run.storages[storage].operation
    readers = account.recorded_readers.get(storage, ())
    operations = [run.operations[number] for number in readers]
    made = [] if made_by is None else [run.operations[made_by]]
    if any(not operation.is_saving for operation in (*made, *operations) if operation.is_recorded):
        return "checkpointed", "a checkpoint around it saves nothing here: it is computed again"
    if not operations:
        if made and not made[0].is_recorded:
            return "no_gradient", "nothing here or behind it needs a gradient of it"
        return "output_not_saved", "no layer's backward pass reads it"
    names = ", ".join(
        dict.fromkeys(
            f"{op.layer} ({account.types.get(op.layer) or op.base_name})"
            for op in operations
            if op.layer is not None
        )
    )
    if not names:
        return "output_not_saved", "the loss's backward pass does not read it"
    return "output_not_saved", f"the backward pass of {names} does not read it"


_SAVERS = {
    "custom_function": "saved by a custom autograd.Function",
    "checkpoint": "an input of a checkpoint, from which it computes again",
}


def _inner(account: Account, storage: int) -> Reason:
    """Name memory that a layer allocates beside its outputs and autograd saves."""
    run, saved = account.run, account.saved
    assert saved is not None
    number = run.storages[storage].operation
    assert number is not None
    operation = run.operations[number]
    num_bytes = _size(account, storage)
    saver = saved.by_python.get(storage)
    if saver is not None:
        return Reason(saver, num_bytes, _SAVERS[saver], "dry_run")
    result = next(
        (n for n, t in enumerate(operation.results) if t is not None and t.storage == storage), 0
    )
    function = None if operation.function is None else run.functions[operation.function].name
    role = saved_role(operation.base_name, result, function)
    if role is not None:
        return Reason(role.code, num_bytes, role.text)
    readers = ", ".join(
        dict.fromkeys(run.operations[r.operation].base_name for r in saved.readers[storage])
    )
    text = f"what {operation.base_name} makes on the way; the backward pass of {readers} reads it"
    return Reason("intermediate", num_bytes, text)
