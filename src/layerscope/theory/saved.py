"""What autograd holds when the forward pass ends: which memory, whose, and why.

The loss is the sum of all outputs, which keeps nothing of its own.
"""

from collections.abc import Iterable, Mapping
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
    holders: dict[int, list[int]] = {}
    own: dict[int, tuple[Kept, ...]] = {}
    unknown: set[int] = set()
    copied: set[tuple[int, str]] = set()
    for call in sorted(recording):
        spec = network.layers[call]
        kind = KINDS.get(spec.kind)
        if kind is None or kind.keeps is None:
            unknown.add(call)
            continue
        kept = kind.keeps(spec, around)
        for item in kept:
            if item.tensor is not None:
                holders.setdefault(item.tensor.storage, []).append(call)
        own[call] = tuple(_own(kept, spec, copied))
    return SavedMemory(
        storages={
            storage: tuple(calls)
            for storage, calls in holders.items()
            if network.storages[storage].origin == "layer"
        },
        own=own,
        unknown=frozenset(unknown),
        recording=recording,
    )


def _own(kept: Iterable[Kept], spec: LayerSpec, copied: set[tuple[int, str]]) -> Iterable[Kept]:
    """Autocast copies a parameter that learns once, whoever uses it how often."""
    for item in kept:
        if item.tensor is not None or not item.num_bytes:
            continue
        if item.parameter is not None and spec.parameters[item.parameter].requires_grad:
            identity = (spec.parameters[item.parameter].storage, item.code)
            if identity in copied:
                continue
            copied.add(identity)
        yield item


def _recording(network: NetworkSpec) -> frozenset[int]:
    """Calls that record a gradient and lead to an output; a branch that is dropped does not."""
    wanted = {tensor.value for tensor in network.outputs if tensor.requires_grad}
    recording: set[int] = set()
    for call in range(len(network.layers) - 1, -1, -1):
        spec = network.layers[call]
        if spec.records_gradient and any(tensor.value in wanted for tensor in spec.outputs):
            recording.add(call)
            wanted.update(tensor.value for tensor in spec.inputs if tensor.requires_grad)
    return frozenset(recording)
