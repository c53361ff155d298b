"""Every function of torch that can be explained, by the family of layerscope.operations.

EXPLAINERS["my_op"] = linear_explainer(parts, formulas), for a function that is linear in each
tensor that it reads; Explainer(formulas, output, gradient) for another.
"""

from layerscope.explain.explainer import Explainer
from layerscope.explain.families.arrangements import (
    ADD,
    CAT,
    DROPOUT,
    MEAN,
    MOVEDIM,
    MUL,
    PERMUTE,
    SUB,
    SUM,
    TRANSPOSE,
    VIEW,
)
from layerscope.explain.families.convolution import CONVOLUTION, TRANSPOSED_CONVOLUTION
from layerscope.explain.families.interpolation import INTERPOLATE
from layerscope.explain.families.norms import (
    BATCH_NORM,
    GROUP_NORM,
    INSTANCE_NORM,
    LAYER_NORM,
    RMS_NORM,
)
from layerscope.explain.families.pointwise import POINTWISE
from layerscope.explain.families.pooling import (
    ADAPTIVE_AVG_POOL,
    ADAPTIVE_MAX_POOL,
    AVG_POOL,
    MAX_POOL,
)
from layerscope.explain.families.products import LINEAR, PRODUCT
from layerscope.explain.families.softmax import ATTENTION, LOG_SOFTMAX, SOFTMAX
from layerscope.explain.families.windows import PADDINGS
from layerscope.explain.operation import IDENTITY, Operation, identity_of, operation_of
from layerscope.networks.layer_calls import DescribedCall
from layerscope.operations import family_of_function
from layerscope.operations.views import IN_ORDER

__all__ = ["EXPLAINERS", "explainer_of", "operation_in", "refusal"]

EXPLAINERS: dict[str, Explainer] = {
    **{f"conv{dims}d": CONVOLUTION for dims in (1, 2, 3)},
    **{f"conv_transpose{dims}d": TRANSPOSED_CONVOLUTION for dims in (1, 2, 3)},
    "linear": LINEAR,
    **dict.fromkeys(("matmul", "mm", "bmm", "mv", "dot"), PRODUCT),
    **POINTWISE,
    "batch_norm": BATCH_NORM,
    "instance_norm": INSTANCE_NORM,
    "layer_norm": LAYER_NORM,
    "group_norm": GROUP_NORM,
    "rms_norm": RMS_NORM,
    "max_pool": MAX_POOL,
    "avg_pool": AVG_POOL,
    "adaptive_avg_pool": ADAPTIVE_AVG_POOL,
    "adaptive_max_pool": ADAPTIVE_MAX_POOL,
    "interpolate": INTERPOLATE,
    "softmax": SOFTMAX,
    "log_softmax": LOG_SOFTMAX,
    "attention": ATTENTION,
    **dict.fromkeys((IDENTITY, *IN_ORDER), VIEW),
    "permute": PERMUTE,
    **dict.fromkeys(("transpose", "swapaxes", "swapdims"), TRANSPOSE),
    **dict.fromkeys(("movedim", "moveaxis"), MOVEDIM),
    "dropout": DROPOUT,
    "feature_dropout": DROPOUT,
    "add": ADD,
    "sub": SUB,
    "mul": MUL,
    "cat": CAT,
    "mean": MEAN,
    "sum": SUM,
}


def explainer_of(operation: Operation) -> Explainer | None:
    """Return how a function's values are explained; None where it is not written."""
    family = family_of_function(operation.name)
    return EXPLAINERS.get(operation.name if family is None else family.name)


def operation_in(spec: DescribedCall) -> Operation | None:
    """Return the one function that makes what a layer returns; None where it takes several."""
    computing = [
        (number, function)
        for number, function in zip(spec.numbers, spec.functions, strict=True)
        if any(tensor.dtype.is_floating_point for tensor in function.outputs)
    ]
    if not spec.functions and spec.returns_input:
        return identity_of(spec)
    if not computing or not computing[-1][1].outputs[0].is_same_memory(spec.outputs[0]):
        return None
    if len(computing) == 1:
        return operation_of(spec, *computing)
    if len(computing) == 2 and computing[0][1].name in PADDINGS:
        operation = operation_of(spec, *reversed(computing))
        return operation if explainer_of(operation) is CONVOLUTION else None
    return None


def refusal(spec: DescribedCall) -> str | None:
    """Return why there is no explanation of a layer; None where there is one."""
    operation = operation_in(spec)
    explainer = None if operation is None else explainer_of(operation)
    if operation is None or explainer is None:
        return f"no explanation is written for a layer of type {spec.type}"
    if explainer.input not in operation.shapes:
        return f"{operation.name} of tensors that are not recorded"
    return explainer.refuses(operation)
