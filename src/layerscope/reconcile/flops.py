"""What each counter of FLOPs leaves out or counts otherwise than the textbook."""

from math import prod

from layerscope.layers.spec import LayerSpec, NetworkSpec
from layerscope.reconcile.rows import Reason
from layerscope.theory.kept import weight_learns
from layerscope.theory.kinds import KINDS
from layerscope.theory.saved import SavedMemory
from layerscope.theory.table import textbook_flops

Reasons = tuple[Reason, ...]


def has_macs(spec: LayerSpec) -> bool:
    """Whether it is a convolution or a linear layer."""
    kind = KINDS.get(spec.kind)
    return kind is not None and kind.macs is not None


# fvcore -------------------------------------------------------------------------------------------


def fvcore_count(spec: LayerSpec) -> int:
    """What fvcore counts for one call: a multiply-accumulate as one."""
    if has_macs(spec):
        return 0 if _pads_by_name(spec) else _known(spec, "macs")
    elements = prod(spec.input_shape) if spec.inputs else 0
    if spec.kind == "batch_norm":
        affine = spec.geometry.get("affine", True)
        return elements * ((5 if affine else 4) if _uses_batch(spec) else (2 if affine else 1))
    if spec.kind in ("layer_norm", "group_norm", "instance_norm"):
        return elements * (5 if spec.parameters else 4)
    if spec.kind == "interpolate" and len(spec.input_shape) == 4:
        per_output = {"nearest": 1, "bilinear": 4}
        return per_output.get(spec.geometry.get("mode", "nearest"), 0) * spec.output_elements
    if spec.kind == "adaptive_avg_pool" and len(spec.input_shape) == 4:
        return elements
    return 0


def fvcore_macs_reasons(spec: LayerSpec) -> Reasons:
    """From MACs to fvcore's count."""
    count = fvcore_count(spec)
    if has_macs(spec):
        return _not_counted(_known(spec, "macs") - count, "padding given by name")
    return _reason("also_counted", count, f"fvcore counts {spec.kind} too")


def fvcore_flops_reasons(spec: LayerSpec) -> Reasons:
    """From the textbook's FLOPs to fvcore's count."""
    theory, count = _known(spec, "forward_flops"), fvcore_count(spec)
    if not count:
        return _not_counted(theory, spec.kind)
    if has_macs(spec):
        return _reason("mac_as_one", count - theory, "fvcore counts a multiply-accumulate as one")
    if spec.kind == "batch_norm" and not _uses_batch(spec):
        text = "with running statistics fvcore counts 2 per element (1 without scale and shift)"
        return _reason("running_statistics", count - theory, text)
    return _reason("no_affine", count - theory, "without scale and shift fvcore counts 4")


def _pads_by_name(spec: LayerSpec) -> bool:
    """Whether torch is told "same" or "valid"; modes other than zeros pad in a step before."""
    by_name = isinstance(spec.geometry.get("padding"), str)
    return by_name and spec.geometry.get("padding_mode", "zeros") == "zeros"


def fvcore_untraced_reasons(spec: LayerSpec) -> Reasons:
    """The trace that it counts leaves out what no output depends on."""
    text = "no output depends on it, and the trace that fvcore counts leaves it out"
    return _reason("not_traced", -fvcore_count(spec), text)


def _uses_batch(spec: LayerSpec) -> bool:
    return bool(spec.geometry.get("training")) or not spec.geometry.get("track_running_stats", True)


# the dispatcher's FLOP counter --------------------------------------------------------------------


def counter_forward_reasons(spec: LayerSpec) -> Reasons:
    """It counts convolutions and matrix products as the textbook does, and nothing else."""
    if has_macs(spec) and not _is_vector(spec):
        return ()
    return _not_counted(_known(spec, "forward_flops"), spec.kind)


def counter_backward_reasons(network: NetworkSpec, saved: SavedMemory, call: int) -> Reasons:
    """Only the gradients that this step computes; a grouped weight gradient `groups` times."""
    spec = network.layers[call]
    if call not in saved.recording:
        return _no_backward(spec)
    if not has_macs(spec) or _is_vector(spec):
        return _not_counted(_backward(spec), spec.kind)
    reasons = missing_gradients(spec)
    groups = spec.geometry.get("groups", 1)
    if groups > 1 and weight_learns(spec):
        amount = (groups - 1) * _known(spec, "weight_gradient_flops")
        text = f"the counter's formula counts the weight gradient of each of the {groups} groups "
        reasons += (Reason("grouped_weight_gradient", amount, text + "as if there were one"),)
    return reasons


def missing_gradients(spec: LayerSpec) -> Reasons:
    """Gradients of a convolution or linear layer that nothing asks for."""
    reasons: Reasons = ()
    if not spec.inputs[0].requires_grad:
        amount = -_known(spec, "input_gradient_flops")
        reasons += _reason("no_input_gradient", amount, "nothing before it needs a gradient")
    if not weight_learns(spec):
        amount = -_known(spec, "weight_gradient_flops")
        reasons += _reason("frozen_weight", amount, "its weight requires no gradient")
    return reasons


def bias_gradient_reasons(spec: LayerSpec) -> Reasons:
    """The formula of a convolution's backward leaves the bias out; a sum has none."""
    return _not_counted(_known(spec, "bias_gradient_flops"), "the sum for the bias's gradient")


def _no_backward(spec: LayerSpec) -> Reasons:
    return _reason("no_gradient", -_backward(spec), "no backward pass runs through it")


def _is_vector(spec: LayerSpec) -> bool:
    """A single row goes through a matrix-vector product, which no counter has a formula for."""
    return spec.kind == "linear" and len(spec.input_shape) == 1


def _backward(spec: LayerSpec) -> int:
    return _known(spec, "input_gradient_flops") + _known(spec, "weight_gradient_flops")


def _known(spec: LayerSpec, quantity: str) -> int:
    """0 stands in where theory is unknown: such a row has no prediction anyway."""
    return textbook_flops(spec)[quantity] or 0


def _reason(code: str, amount: int, text: str) -> Reasons:
    return (Reason(code, amount, text),) if amount else ()


def _not_counted(amount: int, what: str) -> Reasons:
    return _reason("not_counted", -amount, f"it has no formula for {what}")


# torch.profiler's with_flops ----------------------------------------------------------------------


def profiler_forward_reasons(spec: LayerSpec, under_autocast: bool) -> Reasons:
    """It counts events by name: conv2d, addmm, mm, bmm, baddbmm, add and mul; none in place."""
    theory, count = _known(spec, "forward_flops"), profiler_forward_count(spec, under_autocast)
    if not count:
        return _not_counted(theory, _profiler_gap(spec))
    if spec.kind == "conv2d":
        text = "autocast calls the operation a second time, and both are counted"
        return _reason("counted_twice", count - theory, text)
    if spec.kind in ("repeat", "instance_norm"):
        text = "it counts only two products a dimension for the sizes of what is repeated"
        return _reason("sizes", count - theory, text)
    text = "of an addition or product it counts the elements of the first operand"
    return _reason("first_operand", count - theory, text)


def profiler_forward_count(spec: LayerSpec, under_autocast: bool) -> int:
    """What it counts for one call."""
    if spec.kind == "conv2d":
        unread = _pads_by_name(spec) or len(spec.input_shape) != 4
        return 0 if unread else _known(spec, "forward_flops") * (2 if under_autocast else 1)
    if spec.kind == "linear":
        return _known(spec, "forward_flops")
    if spec.in_place or spec.is_view:
        return 0
    if spec.kind in ("add", "mul"):
        return spec.arguments[0].num_elements
    if spec.kind in ("repeat", "instance_norm"):
        return 2 * _num_repeated_dimensions(spec)
    return spec.output_elements if _multiplies_by_mask(spec) else 0


def _num_repeated_dimensions(spec: LayerSpec) -> int:
    """Repeating a tensor computes its sizes, two products each; these are counted."""
    if spec.kind == "repeat":
        return len(spec.output_shape)
    tracked = 2 if spec.geometry.get("track_running_stats") else 0
    return len(spec.parameters) + tracked  # each is repeated for every image


def profiler_backward_reasons(
    network: NetworkSpec, saved: SavedMemory, accumulated: int, call: int
) -> Reasons:
    """Products of matrices and of tensors, and additions of gradients that are not in place.

    Args:
        accumulated: elements that the call's backward adds to a gradient already there.
    """
    spec = network.layers[call]
    text = "a second gradient of one tensor is added to the first"
    extra = _reason("accumulation", accumulated, text)
    if call not in saved.recording:
        return _no_backward(spec) + extra
    if spec.kind == "linear":
        return missing_gradients(spec) + extra
    count = _profiler_products(spec)
    if not count:
        return _not_counted(_backward(spec), f"the backward pass of {spec.kind}") + extra
    if spec.kind in _GRADIENT_PRODUCTS:
        text = f"the gradient of {spec.kind} is computed with so many products"
        return _reason("products", count - _backward(spec), text) + extra
    text = "the product for an operand that needs no gradient is not computed"
    return _reason("no_input_gradient", count - _backward(spec), text) + extra


# Products of tensors in the gradient, where torch has no operation of its own for it.
_GRADIENT_PRODUCTS = {"abs": 1, "exp": 1, "sqrt": 2, "reciprocal": 2, "square": 3, "rsqrt": 3}


def _profiler_products(spec: LayerSpec) -> int:
    if spec.kind == "mul":
        learning = sum(tensor.requires_grad for tensor in spec.arguments)
        return learning * spec.output_elements
    if spec.kind == "div":
        return sum(t.requires_grad for t in spec.arguments[1:]) * spec.output_elements
    if spec.kind in _GRADIENT_PRODUCTS:
        return _GRADIENT_PRODUCTS[spec.kind] * spec.output_elements
    return spec.output_elements if _multiplies_by_mask(spec) and not spec.is_view else 0


def _multiplies_by_mask(spec: LayerSpec) -> bool:
    return spec.kind in ("dropout", "feature_dropout", "stochastic_depth")


def _profiler_gap(spec: LayerSpec) -> str:
    if spec.in_place and spec.kind in ("add", "mul"):
        return f"{spec.kind} in place"
    if spec.kind == "conv2d":
        return "a convolution whose padding is a name, or whose input is a single image"
    return spec.kind
