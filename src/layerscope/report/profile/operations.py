"""The operations of each layer's forward pass, with what they cost and what is saved of them."""

from collections.abc import Iterator, Mapping
from typing import Any

from layerscope.reconcile.account import Account
from layerscope.reconcile.profile import Profile
from layerscope.theory import LayerCost, Unit

_NO_COSTS = {"macs": 0, "forward_flops": 0}


def layer_records(profile: Profile) -> list[dict[str, Any]]:
    """Return every layer with its operations and the textbook's costs, in execution order.

    What runs between layers stands under the path of the module that runs it, without a type.
    """
    operations = operations_by_layer(profile.account)
    costs = {cost.layer: cost for cost in profile.costs.layers}
    return [
        {
            "layer": layer,
            "type": type_,
            "path": costs[layer].path if layer in costs else layer,
            "operations": operations.get(layer, []),
            **_costs(costs.get(layer)),
        }
        for layer, type_ in profile.account.types.items()
    ]


def operations_by_layer(account: Account) -> Mapping[str, list[dict[str, Any]]]:
    """Return the forward operations of each layer, in order.

    A function that owns the cost of its operations (`conv2d`, `batch_norm`) lends it to the first
    of them, so that the operations of a layer add up to the layer. Where such a function runs no
    operation at all, it stands there itself, by its name.
    """
    saved = _saved_by_operation(account)
    found: dict[str, list[dict[str, Any]]] = {}
    for unit in account.units:
        if not unit.backward or unit.operations:
            found.setdefault(unit.layer, []).extend(_of_unit(account, unit, saved))
    return found


def _of_unit(account: Account, unit: Unit, saved: Mapping[int, int]) -> Iterator[dict[str, Any]]:
    costs: Mapping[str, int | None] = unit.costs.counts
    if not unit.operations:
        yield _record(unit.name, costs, 0)
    for number in unit.operations:
        operation = account.run.operations[number]
        yield _record(operation.base_name, costs, saved.get(number, 0))
        costs = _NO_COSTS


def _record(name: str, costs: Mapping[str, int | None], saved_bytes: int) -> dict[str, Any]:
    return {
        "name": name,
        "phase": "forward",
        "macs": costs["macs"],
        "flops": costs["forward_flops"],
        "saved_bytes": saved_bytes,
    }


def _saved_by_operation(account: Account) -> Mapping[int, int]:
    """Return the bytes that each operation allocated and autograd saved, each storage once."""
    found: dict[int, int] = {}
    for number in {record.storage for record in account.run.saved}:
        storage = account.run.storages[number]
        if storage.operation is not None:
            found[storage.operation] = found.get(storage.operation, 0) + storage.num_bytes
    return found


def _costs(cost: LayerCost | None) -> dict[str, Any]:
    """Return the textbook's costs; null where it knows no layer of this name."""
    names = (
        *("num_calls", "num_parameters", "parameter_bytes", "buffer_bytes", "output_elements"),
        *("output_bytes", "macs", "forward_flops", "backward_flops", "bias_gradient_flops"),
    )
    return {name: None if cost is None else getattr(cost, name) for name in names}
