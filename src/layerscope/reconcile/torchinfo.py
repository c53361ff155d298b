"""Predictions of torchinfo's figures, and the reasons why they differ from the textbook's."""

from collections.abc import Iterator
from math import prod

from layerscope.dry_run import LayerCall
from layerscope.dry_run.records import Shape
from layerscope.reconcile.account import Account
from layerscope.reconcile.flops import Prediction
from layerscope.reconcile.rows import Reason, merged

_IN_LOSS = "the loss calls it too, which torchinfo does not see"


def torchinfo_macs_prediction(account: Account, layer: str) -> Prediction:
    """Predict "mult-adds": a module's parameters by the sizes of its output."""
    cost = account.layers.get(layer)
    theory = 0 if cost is None else cost.macs
    in_loss = _macs_in_loss(account, layer)
    calls = _module_calls(account, layer)
    weights = sum(count for call in calls for name, count in _products(call) if "bias" not in name)
    biases = sum(count for call in calls for name, count in _products(call) if "bias" in name)
    if not weights + biases:
        return Prediction(0, theory, counted=False)
    if theory is None or in_loss is None:
        return Prediction(None)
    type_ = account.types[layer]
    if not theory:
        text = f"torchinfo multiplies the parameters of a {type_} by the batch"
        return Prediction(0, 0, (Reason("parameters", weights + biases, text),))
    reasons = (
        Reason("bias", biases, "torchinfo counts a bias as one multiply-add for each output"),
        Reason("in_loss", -in_loss, _IN_LOSS),
        Reason("positions", weights + in_loss - theory, _positions_text(type_)),
    )
    return Prediction(theory, 0, tuple(reason for reason in reasons if reason.amount))


def torchinfo_bytes_prediction(account: Account, layer: str) -> Prediction:
    """Predict a layer's part of "forward/backward pass size": twice its output."""
    cost = account.layers.get(layer)
    theory = 0 if cost is None else cost.output_bytes
    calls = [call for call in _module_calls(account, layer) if call.parameters and call.outputs]
    if not calls:
        return Prediction(0, theory, counted=False)
    in_loss = sum(
        call.output_elements * account.element_size
        for call in account.calls[layer]
        if not _is_in_forward(account, call)
    )
    elements = sum(call.outputs[0].num_elements for call in calls)
    in_theory = elements * account.element_size
    actual = sum(call.outputs[0].num_bytes for call in calls)
    code = "low_precision" if actual < in_theory else "wider_type"
    reasons = (
        Reason("in_loss", -in_loss, _IN_LOSS),
        Reason("first_output", in_theory + in_loss - theory, "torchinfo takes the first output"),
        Reason(code, actual - in_theory, "the output has another dtype"),
        Reason("doubled", actual, "torchinfo doubles it, for the gradient of the output"),
    )
    return Prediction(theory, 0, merged(reason for reason in reasons if reason.amount))


def torchinfo_parameters_prediction(account: Account, layer: str) -> Prediction:
    """Predict the parameters that torchinfo gives a module: all that it has."""
    cost = account.layers.get(layer)
    theory = 0 if cost is None else cost.num_parameters
    calls = _module_calls(account, layer)
    if not calls:
        return Prediction(0, theory, counted=False)
    own = sum(parameter.num_elements for parameter in calls[0].parameters.values())
    text = "torchinfo counts parameters that modules share for each of them"
    reasons = (Reason("shared", own - theory, text),) if own != theory else ()
    return Prediction(theory, 0, reasons)


def _module_calls(account: Account, layer: str) -> tuple[LayerCall, ...]:
    """Return the forward pass's calls of a module without children; none for a function."""
    calls = tuple(c for c in account.calls.get(layer, ()) if _is_in_forward(account, c))
    if any(call.function_name is not None for call in calls):
        return ()
    names = {name for call in calls for name in call.parameters}
    has_children = any("." in name for name in names)
    is_pruned = any(name.endswith("_orig") for name in names)  # by a mask's values
    return () if has_children or is_pruned else calls


def _is_in_forward(account: Account, call: LayerCall) -> bool:
    """Tell whether the network's own forward pass calls it; the loss can, too."""
    return call.operations.start <= account.last_output


def _macs_in_loss(account: Account, layer: str) -> int | None:
    """Return the MACs of calls outside of the network's own forward pass; None if unknown."""
    counts = [
        unit.costs.counts["macs"]
        for call in account.calls.get(layer, ())
        if not _is_in_forward(account, call)
        for unit in account.units_by_call.get(call.number, ())
    ]
    return None if None in counts else sum(count or 0 for count in counts)


def _products(call: LayerCall) -> Iterator[tuple[str, int]]:
    """Yield each parameter with what torchinfo counts for it."""
    output = call.outputs[0].shape if call.outputs else ()
    for name, parameter in call.parameters.items():
        yield name, parameter.num_elements * _factor(call.type, name, output)


def _factor(type_: str, name: str, output: Shape) -> int:
    if name in ("weight", "bias"):
        if "Conv" in type_:
            return prod(output[:1] + output[2:])
        return output[0] if output else 1
    # A recurrent layer's names: weight_ih_l0, bias_hh_l0.
    return prod(output[:2]) if "weight" in name or "bias" in name else 0


def _positions_text(type_: str) -> str:
    if "Transpose" in type_:
        return "torchinfo takes the positions of the output, such a convolution those of its input"
    return "torchinfo multiplies the weights by the batch alone, not by every position"
