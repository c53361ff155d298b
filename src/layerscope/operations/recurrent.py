"""Fused recurrent layers."""

from layerscope.operations.family import Cost, Family, Invocation, Number, SizesByName


def lstm_macs(N: Number, T: Number, in_features: Number, hidden: Number) -> Number:
    """Return the MACs of an LSTM: for each step, four gates' products with input and state."""
    return 4 * N * T * hidden * (in_features + hidden)


def lstm_flops(N: Number, T: Number, in_features: Number, hidden: Number) -> Number:
    """Return the forward FLOPs: 2 per MAC, and 9 per unit and step.

    The 9 are five activations, three products and an addition.
    """
    return 2 * lstm_macs(N, T, in_features, hidden) + 9 * N * T * hidden


def lstm_gradient_flops(N: Number, T: Number, in_features: Number, hidden: Number) -> Number:
    """Return the FLOPs of the gradients of input and state: 2 per MAC, and 9 per unit and step."""
    return 2 * lstm_macs(N, T, in_features, hidden) + 9 * N * T * hidden


def lstm_weight_flops(N: Number, T: Number, in_features: Number, hidden: Number) -> Number:
    """Return the FLOPs of the weights' gradients: 2 per MAC."""
    return 2 * lstm_macs(N, T, in_features, hidden)


def _sizes(call: Invocation) -> SizesByName:
    steps, batch, features = call.input_shape
    return {
        "N": batch,
        "T": steps,
        "in_features": features,
        "hidden": call.arguments["hidden_size"],
    }


FAMILIES = (
    Family(
        name="lstm_layer",
        operations=("aten::mkldnn_rnn_layer",),
        macs=Cost(lstm_macs, _sizes),
        forward=Cost(lstm_flops, _sizes),
        input_gradient=Cost(lstm_gradient_flops, _sizes),
        weight_gradient=Cost(lstm_weight_flops, _sizes),
    ),
)
