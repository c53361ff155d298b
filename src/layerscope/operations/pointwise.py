"""Activations, arithmetic and dropout: one or two FLOPs per element."""

from layerscope.operations.family import (
    Family,
    elementwise_flops,
    on_input,
    on_output,
    two_per_element_flops,
)

# Arguments that are no settings of what is computed.
_OTHERS = ("input", "weight", "training", "inplace")


def _elementwise(
    name: str,
    *functions: str,
    parameters: tuple[str, ...] = ("input",),
    is_elementwise: bool = True,
) -> Family:
    return Family(
        name=name,
        functions=functions or (name,),
        parameters=parameters,
        settings=tuple(name for name in parameters if name not in _OTHERS),
        is_elementwise=is_elementwise,
        forward=on_output(elementwise_flops),
        input_gradient=on_input(elementwise_flops),
    )


_DROPOUT = ("input", "p", "training", "inplace")

FAMILIES = (
    *(
        _elementwise(name)
        for name in (
            *(
                "relu",
                "sigmoid",
                "tanh",
                "selu",
                "silu",
                "mish",
                "hardswish",
                "hardsigmoid",
            ),
            *("relu6", "abs", "square", "exp", "sqrt", "rsqrt", "reciprocal", "neg"),
            *("rrelu", "softsign", "log_sigmoid", "tanhshrink"),
        )
    ),
    *(_elementwise(name, is_elementwise=False) for name in ("maximum", "minimum", "clamp")),
    _elementwise("prelu", parameters=("input", "weight")),
    _elementwise("celu", parameters=("input", "alpha")),
    _elementwise("gelu", parameters=("input", "approximate")),
    _elementwise("leaky_relu", parameters=("input", "negative_slope")),
    _elementwise("elu", parameters=("input", "alpha")),
    _elementwise("hardtanh", parameters=("input", "min_val", "max_val")),
    _elementwise("softplus", parameters=("input", "beta", "threshold")),
    _elementwise("glu", parameters=("input", "dim"), is_elementwise=False),
    _elementwise("dropout", "dropout", parameters=_DROPOUT),
    _elementwise("alpha_dropout", "alpha_dropout", parameters=_DROPOUT),
    _elementwise(
        "feature_dropout",
        *("dropout1d", "dropout2d", "dropout3d", "feature_dropout", "feature_alpha_dropout"),
        parameters=_DROPOUT,
    ),
    _elementwise("stochastic_depth", parameters=("input", "p", "mode", "training")),
    *(
        Family(
            name=name,
            functions=(name,),
            parameters=("input", "other", "alpha"),
            forward=on_output(elementwise_flops),
        )
        for name in ("add", "sub")
    ),
    *(
        Family(
            name=name,
            functions=(name,),
            parameters=("input", "other"),
            forward=on_output(elementwise_flops),
            input_gradient=on_output(two_per_element_flops),
            profiler_backward=name == "mul",
        )
        for name in ("mul", "div")
    ),
)
