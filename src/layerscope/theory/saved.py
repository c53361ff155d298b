"""What autograd holds when the forward pass ends: which memory, whose, and why.

The loss is the sum of all outputs, which keeps nothing of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from layerscope.layers.spec import LayerSpec, NetworkSpec
from layerscope.theory.kept import Kept, Surroundings
from layerscope.theory.kinds import KINDS


@dataclass(frozen=True)
class SavedMemory:
    """Of one forward pass; calls are indices into `NetworkSpec.layers`.

    Args:
        storages: the storages that layers allocated and autograd holds, with the calls that hold
            each.
        own: each call's own memory beside its outputs: indices, statistics, masks, copies.
        unknown: calls of which it is not known what they keep.
        recording: calls whose backward will run: an output of the network needs it.
    """

    storages: Mapping[int, tuple[int, ...]]
    own: Mapping[int, tuple[Kept, ...]]
    unknown: frozenset[int]
    recording: frozenset[int]


def surroundings(network: NetworkSpec) -> Surroundings:
    """What the rules ask for beside the layer."""
    return Surroundings(network.device.type, network.autocast)


def saved_memory(network: NetworkSpec) -> SavedMemory:
    """Apply each kind's rule to every call whose backward will run."""
    around = surroundings(network)
    recording = _recording(network)
    first_users = _first_users(network)
    holders: dict[int, list[int]] = {}
    own: dict[int, dict[object, Kept]] = {}
    unknown: set[int] = set()
    for call in sorted(recording):
        spec = network.layers[call]
        kind = KINDS.get(spec.kind)
        kept = None if kind is None or kind.keeps is None else kind.keeps(spec, around)
        if kept is None:
            unknown.add(call)
            continue
        for number, item in enumerate(kept):
            if item.tensor is not None:
                holders.setdefault(item.tensor.storage, []).append(call)
            elif item.num_bytes:
                owner, name = _owner(call, number, item, spec, first_users)
                own.setdefault(owner, {})[name] = item
    return SavedMemory(
        storages={
            storage: tuple(calls)
            for storage, calls in holders.items()
            if network.storages[storage].origin == "layer"
        },
        own={call: tuple(items.values()) for call, items in own.items()},
        unknown=frozenset(unknown),
        recording=recording,
    )


def _first_users(network: NetworkSpec) -> dict[int, int]:
    """Of each parameter's storage, the first call that used it."""
    users: dict[int, int] = {}
    for call, spec in enumerate(network.layers):
        for parameter in spec.parameters.values():
            users.setdefault(parameter.storage, call)
    return users


def _owner(
    call: int, number: int, item: Kept, spec: LayerSpec, first_users: Mapping[int, int]
) -> tuple[int, object]:
    """The call that made this memory, and a name under which the same memory is one.

    Autocast copies a parameter that learns once, for the first that uses it; others each time.
    """
    parameter = None if item.parameter is None else spec.parameters[item.parameter]
    if parameter is not None and parameter.requires_grad:
        return first_users[parameter.storage], (item.code, parameter.storage)
    return call, (item.code, call, number)


def _recording(network: NetworkSpec) -> frozenset[int]:
    """Calls that record a gradient and lead to an output; a branch that is dropped does not.

    Where something unseen runs, nobody knows what it leads to: then all that record a gradient.
    """
    if network.num_unseen:
        return frozenset(call for call, spec in enumerate(network.layers) if spec.records_gradient)
    wanted = {tensor.value for tensor in network.outputs if tensor.requires_grad}
    recording: set[int] = set()
    for call in range(len(network.layers) - 1, -1, -1):
        spec = network.layers[call]
        if spec.records_gradient and any(tensor.value in wanted for tensor in spec.outputs):
            recording.add(call)
            wanted.update(tensor.value for tensor in spec.inputs if tensor.requires_grad)
    return frozenset(recording)
