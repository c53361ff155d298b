"""Predictions of each FLOP counter, and the reasons why it differs from the textbook.

A counter has a formula for some units of a layer and none for others. It is compared with the
textbook's figure of the former. The figure of the latter is `theory_not_counted`, and no
comparison.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import prod

from layerscope.dry_run import OperationRecord
from layerscope.operations import (
    FREE,
    TRACED_APART,
    counted_by_dispatcher,
    dispatcher_count,
    profiler,
)
from layerscope.reconcile.account import Account
from layerscope.reconcile.rows import Reason, merged
from layerscope.theory import CountedUnit, sum_if_known
from layerscope.theory.units import operation_invocation


@dataclass(frozen=True)
class Prediction:
    """The predicted figure of an instrument for one layer, or for one unit.

    Args:
        theory: the textbook's figure of what is counted; None if it is not known.
        not_counted: the textbook's figure of the rest; None if it is not known.
        counted: false if the instrument has no formula for any of it.
    """

    theory: int | None
    not_counted: int | None = 0
    reasons: tuple[Reason, ...] = ()
    counted: bool = True


def _added(predictions: Iterable[Prediction]) -> Prediction:
    predictions = tuple(predictions)
    counted = [p for p in predictions if p.counted]
    return Prediction(
        theory=sum_if_known(p.theory for p in counted),
        not_counted=sum_if_known(p.not_counted for p in predictions),
        reasons=merged(reason for p in counted for reason in p.reasons if reason.amount),
        counted=bool(counted),
    )


def _reason(code: str, amount: int, text: str, source: str | None = None) -> tuple[Reason, ...]:
    return (Reason(code, amount, text, source),) if amount else ()


def _name(unit: CountedUnit) -> str:
    return unit.name.removeprefix("aten::")


def _backward_theory(unit: CountedUnit) -> int | None:
    counts = unit.costs.counts
    return sum_if_known((counts["input_gradient_flops"], counts["weight_gradient_flops"]))


def _products(unit: CountedUnit) -> int:
    """Return the FLOPs of the matrix products in a unit's forward pass; backward has twice that."""
    return 2 * (unit.costs.counts["macs"] or 0)


def _has_products(unit: CountedUnit) -> bool:
    """Tell whether it is a product of two factors; with more, torch chooses an order."""
    if unit.family is None or not unit.family.matrices:
        return False
    return unit.family.matrices != ("operands",) or len(unit.invocation.inputs) == 2


# fvcore -------------------------------------------------------------------------------------------


def fvcore_prediction(account: Account, layer: str, quantity: str) -> Prediction:
    """Predict fvcore's count of a layer, for comparison with its MACs or forward FLOPs."""
    units = account.units_by_layer.get(layer, ())
    return _added(_fvcore_unit(account, unit, quantity) for unit in units if unit.operations)


def _function_of(account: Account, unit: CountedUnit) -> str | None:
    """Return the name of the function that ran an operation."""
    function = account.run.operations[unit.operations[0]].function
    return None if function is None else account.run.functions[function].name


def _fvcore_unit(account: Account, unit: CountedUnit, quantity: str) -> Prediction:
    theory = unit.costs.counts[quantity]
    formula = None if unit.family is None else unit.family.fvcore
    is_traced = unit.is_function or _function_of(account, unit) in TRACED_APART
    count = None if formula is None or not is_traced else formula(unit.invocation)
    if count is None:
        return Prediction(0, theory, counted=False)
    assert unit.family is not None
    beyond = unit.family.fvcore_beyond(unit.invocation)
    text = f"fvcore's formula for {_name(unit)}"
    macs = unit.costs.counts["macs"] or 0
    if quantity == "forward_flops":
        reasons = _reason("mac_as_one", -macs, "fvcore counts a multiply-accumulate as one")
        reasons += _reason("formula", beyond, text)
    elif macs:
        reasons = _reason("formula", beyond, text)
    else:
        reasons = _reason("also_counted", count, f"fvcore counts {_name(unit)} too")
    if not account.is_needed(unit):
        text = "no output depends on it, and the trace that fvcore counts leaves it out"
        reasons += _reason("not_traced", -count, text)
    return Prediction(theory, 0, reasons)


# the dispatcher's FLOP counter --------------------------------------------------------------------


OperationCount = Callable[[OperationRecord], int | None]


def _dispatcher(operation: OperationRecord) -> int | None:
    """Return the dispatcher's count of one operation; None if it has no formula."""
    if not counted_by_dispatcher(operation.base_name):
        return None
    return dispatcher_count(operation_invocation(operation))


def _profiler(operation: OperationRecord) -> int | None:
    """Return the profiler's count of one operation; None if it counts nothing of its name."""
    if not profiler.counts_inside(operation.name, operation.base_name):
        return None
    return profiler.operation_count(operation.name, operation_invocation(operation))


def _profiler_products(operation: OperationRecord) -> int | None:
    return _profiler(operation) if operation.base_name in profiler.PRODUCTS else None


def _profiler_sums(operation: OperationRecord) -> int | None:
    return None if operation.base_name in profiler.PRODUCTS else _profiler(operation)


def _profiler_again(account: Account) -> OperationCount:
    """Return a function for the profiler's count of recomputed operations.

    There the profiler sees a convolution without the function that calls it.
    """

    def count(operation: OperationRecord) -> int | None:
        if not profiler.is_conv2d(operation):
            return _profiler(operation)
        times = 1 if account.run.autocast is None else 2
        return times * (_dispatcher(operation) or 0)

    return count


def _count(operations: Iterable[OperationRecord], count: OperationCount) -> int | None:
    """Return the sum of an instrument's counts; None if it has a formula for none of them."""
    found: int | None = None
    for operation in operations:
        number = count(operation)
        if number is not None:
            found = (found or 0) + number
    return found


def _own(account: Account, numbers: Sequence[int]) -> list[OperationRecord]:
    """Return operations without those that add gradients or recompute."""
    operations = [account.run.operations[number] for number in numbers]
    return [op for op in operations if not op.is_accumulation and not op.is_recomputed]


def counter_forward_prediction(account: Account, layer: str) -> Prediction:
    """Predict the counter's forward count: 2 per MAC of convolutions and matrix products."""
    units = account.units_by_layer.get(layer, ())
    return _added(_counter_forward(account, unit) for unit in units if unit.operations)


def _counter_forward(account: Account, unit: CountedUnit) -> Prediction:
    theory = unit.costs.counts["forward_flops"]
    count = _count(_own(account, unit.operations), _dispatcher)
    if count is None:
        return Prediction(0, theory, counted=False)
    if not _has_products(unit):
        return Prediction(0, theory, _inside(unit, count))
    return _part(_products(unit), theory)


def _part(products: int, theory: int | None, reasons: tuple[Reason, ...] = ()) -> Prediction:
    """Compare the instrument with the products; the rest of the unit is not counted."""
    return Prediction(products, None if theory is None else theory - products, reasons)


def _inside(unit: CountedUnit, count: int) -> tuple[Reason, ...]:
    text = f"it counts products and additions that torch computes {_name(unit)} with"
    return _reason("products", count, text)


def counter_backward_prediction(account: Account, layer: str) -> Prediction:
    """Predict the counter's backward count: the products for the gradients that are computed."""
    units = account.units_by_layer.get(layer, ())
    own = _added(_counter_backward(account, unit) for unit in units)
    return _with_extra(account, layer, own, _dispatcher, _dispatcher)


def _counter_backward(account: Account, unit: CountedUnit) -> Prediction:
    theory = _backward_theory(unit)
    count = _count(_own(account, unit.backward), _dispatcher)
    has_formula = _count(_own(account, unit.operations), _dispatcher) is not None
    if count is None and not has_formula:
        return Prediction(0, theory, counted=False)
    if not _has_products(unit):
        return Prediction(0, theory, _inside(unit, count or 0))
    return _part(2 * _products(unit), theory, _gradient_reasons(account, unit))


def _gradient_reasons(account: Account, unit: CountedUnit) -> tuple[Reason, ...]:
    """Name the products that the step does not compute, or that the counter counts differently."""
    if _count(_own(account, unit.backward), _dispatcher) is None:
        return _no_gradient(unit, 2 * _products(unit))
    reasons = missing_gradients(unit)
    groups = unit.invocation.arguments.get("groups") or 1
    if groups > 1 and unit.invocation.arguments["weight"].requires_grad:
        text = f"the counter's formula counts the weight gradient of each of the {groups} groups "
        amount = (groups - 1) * _products(unit)
        reasons += _reason("grouped_weight_gradient", amount, text + "as if there were one")
    return reasons + _recomputed_scores(account, unit)


def _recomputed_scores(account: Account, unit: CountedUnit) -> tuple[Reason, ...]:
    """Name the scores that fused attention kernels recompute, with all three gradients at once."""
    sizes = next((f.arguments for f in unit.costs.formulas if f.quantity == "macs"), {})
    fused = [
        op
        for op in _own(account, unit.backward)
        if op.base_name.endswith("_backward") and counted_by_dispatcher(op.base_name)
    ]
    if "queries" not in sizes or not fused:
        return ()
    amount = 2 * sizes["batch"] * sizes["queries"] * sizes["keys"] * sizes["E"]
    return _reason("scores_again", amount, "the fused kernel computes the scores again")


def missing_gradients(unit: CountedUnit) -> tuple[Reason, ...]:
    """Name the gradients of a product's factors that nothing needs."""
    assert unit.family is not None
    reasons: tuple[Reason, ...] = ()
    factors = _factors(unit)
    if len(factors) != 2:
        return ()
    for position, (name, requires_grad) in enumerate(factors):
        if requires_grad:
            continue
        if name == "weight":
            reasons += _reason("frozen_weight", -_products(unit), "its weight requires no gradient")
        else:
            what = (
                "nothing before it needs a gradient"
                if position == 0
                else f"{name} needs no gradient"
            )
            reasons += _reason("no_input_gradient", -_products(unit), what)
    return merged(reasons)


def _factors(unit: CountedUnit) -> list[tuple[str, bool]]:
    """Return each factor's name, and whether its gradient is needed."""
    assert unit.family is not None
    if unit.family.matrices == ("operands",):
        return [("operand", tensor.requires_grad) for tensor in unit.invocation.inputs]
    arguments = unit.invocation.arguments
    found = [(name, arguments.get(name)) for name in unit.family.matrices]
    return [
        (name, (arguments["self"] if value is None else value).requires_grad)
        for name, value in found
    ]


def _no_gradient(unit: CountedUnit, amount: int) -> tuple[Reason, ...]:
    return _reason("no_gradient", -amount, "no backward pass runs through it")


def _with_extra(
    account: Account, layer: str, own: Prediction, count: OperationCount, again: OperationCount
) -> Prediction:
    """Add the engine's further work for a layer: sums of gradients, and recomputation."""
    extra = account.extra_operations.get(layer, ())
    sums = _count((op for op in extra if op.is_accumulation), count)
    recomputed = _count((op for op in extra if op.is_recomputed), again)
    reasons = _reason(
        "accumulation", sums or 0, "a second gradient of one tensor is added to the first"
    )
    text = "a checkpoint computes a part of the forward pass again"
    reasons += _reason("recomputed", recomputed or 0, text, "dry_run")
    if not reasons:
        return own
    return Prediction(
        own.theory if own.counted else 0, own.not_counted, merged((*own.reasons, *reasons))
    )


# torch.profiler's with_flops ----------------------------------------------------------------------


def profiler_forward_prediction(account: Account, layer: str) -> Prediction:
    """Predict torch.profiler's forward count: events of six names."""
    units = account.units_by_layer.get(layer, ())
    return _added(_profiler_forward(account, unit) for unit in units if unit.operations)


def _profiler_forward(account: Account, unit: CountedUnit) -> Prediction:
    theory = unit.costs.counts["forward_flops"]
    function = None if unit.family is None else unit.family.profiler
    outer = None if function is None else function(unit.invocation)
    operations = _own(account, unit.operations)
    inner = _count(operations, _profiler)
    if outer is None and inner is None:
        return Prediction(0, theory, counted=False)
    doubled = _doubled(account, operations, outer or 0)
    if _has_products(unit) and (
        outer is not None or _count(operations, _profiler_products) is not None
    ):
        sums = _count(operations, _profiler_sums) or 0
        return _part(_products(unit), theory, doubled + _inside(unit, sums))
    if len(unit.operations) == 1 and _is_sum_or_product(unit):
        text = "of an addition or product it counts the elements of the first operand"
        beyond = (inner or 0) - prod(unit.invocation.output_shape)
        return Prediction(theory, 0, _reason("first_operand", beyond, text))
    return Prediction(0, theory, doubled + _inside(unit, inner or 0))


def _doubled(account: Account, operations: list[OperationRecord], outer: int) -> tuple[Reason, ...]:
    """Name the operations that the profiler sees twice under autocast."""
    functions = {
        number: account.run.functions[number]
        for number in {op.function for op in operations}
        if number is not None and account.run.functions[number].is_autocast
    }
    if not functions:
        return ()
    again = outer
    for operation in operations:
        function = functions.get(-1 if operation.function is None else operation.function)
        if function is None:
            continue
        if profiler.is_doubled_under_autocast(function.name):
            again += _profiler_products(operation) or 0
        if profiler.counts_inside(operation.name, operation.base_name):
            invocation = operation_invocation(operation)
            again += profiler.counted_again_inside(operation.name, invocation)
    text = "autocast calls the operation a second time, and both are counted"
    return _reason("counted_twice", again, text)


def _is_sum_or_product(unit: CountedUnit) -> bool:
    """Tell whether it is an addition or a product of floating-point numbers."""
    return profiler.counts_first_operand(unit.name) and unit.costs is not FREE


def profiler_backward_prediction(account: Account, layer: str) -> Prediction:
    """Predict torch.profiler's backward count: products, and additions out of place."""
    units = account.units_by_layer.get(layer, ())
    own = _added(_profiler_backward(account, unit) for unit in units)
    again = _profiler_again(account)
    extra = _with_extra(account, layer, own, _profiler, again)
    interrupted = _count(account.interrupted_operations.get(layer, ()), again)
    if not interrupted:
        return extra
    text = "a checkpoint calls one more operation than it needs and stops there"
    reasons = merged((*extra.reasons, *_reason("interrupted", interrupted, text, "dry_run")))
    return Prediction(extra.theory, extra.not_counted, reasons)


def _profiler_backward(account: Account, unit: CountedUnit) -> Prediction:
    theory = _backward_theory(unit)
    operations = _own(account, unit.backward)
    count = _count(operations, _profiler)
    forward = _own(account, unit.operations)
    if _has_products(unit) and _count(forward, _profiler_products) is not None:
        products = 2 * _products(unit)
        ran = _count(operations, _profiler_products) is not None
        reasons = missing_gradients(unit) if ran else _no_gradient(unit, products)
        return _part(
            products, theory, reasons + _inside(unit, _count(operations, _profiler_sums) or 0)
        )
    if unit.family is not None and unit.family.profiler_backward and _computes(unit):
        return Prediction(theory, 0, _factor_reasons(unit))
    if count is None:
        return Prediction(0, theory, counted=False)
    return Prediction(0, theory, _inside(unit, count))


def _computes(unit: CountedUnit) -> bool:
    return bool(unit.costs.formulas)


def _factor_reasons(unit: CountedUnit) -> tuple[Reason, ...]:
    """Name the products for factors whose gradient nothing needs."""
    elements = prod(unit.invocation.output_shape)
    if not unit.backward:
        return _no_gradient(unit, 2 * elements)
    learning = sum(tensor.requires_grad for tensor in unit.invocation.inputs)
    text = "the product for an operand that needs no gradient is not computed"
    return _reason("no_input_gradient", (learning - 2) * elements, text)
