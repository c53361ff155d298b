"""The order of layers in a pattern, their blocks and their keys."""

from collections import Counter
from collections.abc import Sequence

from layerscope.networks.pattern_layers import POOLS, PatternLayer
from layerscope.networks.pattern_syntax import TextRange, refuse

WINDOWED = ("Conv", *POOLS)
HEAD = 0  # block number of layers in no block
_UNNUMBERED = (*POOLS, "GAP", "Flatten")


def check_order(pattern: str, layers: Sequence[PatternLayer]) -> None:
    """Refuse another order than features, at most one GAP and one Flatten, then FC layers.

    The last layer must be FC.
    """
    stage = ""
    for layer in layers:
        if layer.kind == "Input":
            refuse(pattern, layer.place, "Input stands at the beginning only")
        if stage and layer.kind in (*WINDOWED, "GAP"):
            cause = {
                "GAP": "which leaves 1×1 of every channel",
                "Flatten": "which leaves no height and width",
                "FC": "which leaves no height and width",
            }[stage]
            refuse(pattern, layer.place, f"{layer.kind} behind {stage}, {cause}: put it before")
        if layer.kind == "Flatten" and stage in ("Flatten", "FC"):
            refuse(
                pattern, layer.place, f"Flatten behind {stage}: it is flat already, leave it out"
            )
        if layer.kind in ("GAP", "Flatten", "FC"):
            stage = layer.kind
    if not layers or stage != "FC":
        end = len(pattern)
        place = layers[-1].place if layers else TextRange(end, end)
        refuse(pattern, place, "no FC at the end, whose outputs are the class scores: add → FC")
    if layers[-1].kind != "FC":
        last = max(index for index, layer in enumerate(layers) if layer.kind == "FC")
        behind = layers[last + 1]
        refuse(
            pattern,
            behind.place,
            f"{behind.kind} behind the last FC, whose outputs are the class scores: "
            "leave it out, or add → FC",
        )


def completed(layers: Sequence[PatternLayer], batch_norm: bool) -> tuple[PatternLayer, ...]:
    """Add the Flatten before the first FC and, with `batch_norm`, a BN after every Conv."""
    found: list[PatternLayer] = []
    flat = False
    for layer, behind in zip(layers, [*layers[1:], None], strict=True):
        if layer.kind == "FC" and not flat:
            found.append(_like("Flatten", layer))
        flat = flat or layer.kind in ("Flatten", "FC")
        found.append(layer)
        has_own = behind is not None and behind.kind == "BN"
        if batch_norm and layer.kind == "Conv" and not has_own:
            found.append(_like("BN", layer))
    return tuple(found)


def _like(kind: str, layer: PatternLayer) -> PatternLayer:
    return PatternLayer(kind, {}, layer.place, {}, layer.repetition, layer.section)


def blocks_of(layers: Sequence[PatternLayer]) -> tuple[int, ...]:
    """Return the number of each layer's block, from 1; HEAD for layers after the last block.

    A block ends with its pooling layer. In a pattern without pooling, each repetition of an
    outermost group with a Conv is a block.
    """
    pools = any(layer.kind in POOLS for layer in layers)
    numbers: list[int] = []
    block, section, has_conv = 1, None, False
    for layer in layers:
        is_new = layer.section != section and (layer.section is not None or layer.kind == "Conv")
        if not pools and is_new:
            block, section, has_conv = block + has_conv, layer.section, False
        numbers.append(block)
        has_conv = has_conv or layer.kind == "Conv"
        if layer.kind in POOLS:
            block += 1
    return tuple(
        number if index < _feature_end(layers) else HEAD for index, number in enumerate(numbers)
    )


def _feature_end(layers: Sequence[PatternLayer]) -> int:
    """Return the index of the first layer after all blocks.

    The last block ends with its pooling; in a pattern without pooling, with a Conv and its ReLU.
    """
    last = max((i for i, layer in enumerate(layers) if layer.kind in WINDOWED), default=-1)
    if last >= 0 and layers[last].kind == "Conv":
        while layers[last + 1].kind not in ("GAP", "Flatten"):
            last += 1
    return last + 1


def layer_keys(layers: Sequence[PatternLayer], blocks: Sequence[int]) -> tuple[str, ...]:
    """Return keys such as `block1.conv2`, `block1.pool`, `fc1`.

    Layers are numbered within their block, or among those after the blocks.
    """
    counts: Counter[tuple[int, str]] = Counter()
    keys: list[str] = []
    for layer, block in zip(layers, blocks, strict=True):
        kind = layer.kind
        counts[block, kind] += 1
        name = "pool" if kind in POOLS else kind.lower()
        number = "" if kind in _UNNUMBERED else str(counts[block, kind])
        keys.append(("" if block == HEAD else f"block{block}.") + name + number)
    return tuple(keys)
