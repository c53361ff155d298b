"""Fused recurrent layers."""

from layerscope.operations.family import Cost, Family, Invocation, Number, Sizes


def lstm_macs(N: Number, T: Number, in_features: Number, hidden: Number) -> Number:
    """Four gates for each step, each a product with the input and with the state."""
    return 4 * N * T * hidden * (in_features + hidden)


def lstm_flops(N: Number, T: Number, in_features: Number, hidden: Number) -> Number:
    """2 per MAC; 9 per unit and step: five activations, three products and an addition."""
    return 2 * lstm_macs(N, T, in_features, hidden) + 9 * N * T * hidden


def lstm_gradient_flops(N: Number, T: Number, in_features: Number, hidden: Number) -> Number:
    """2 per MAC for the gradients of input and state; 9 per unit and step."""
    return 2 * lstm_macs(N, T, in_features, hidden) + 9 * N * T * hidden


def lstm_weight_flops(N: Number, T: Number, in_features: Number, hidden: Number) -> Number:
    """2 per MAC."""
    return 2 * lstm_macs(N, T, in_features, hidden)


def _sizes(call: Invocation) -> Sizes:
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
