"""A layer's settings in words."""

from typing import Any

from layerscope.layers.spec import LayerSpec

_SYMBOLS = {"kernel_size": "k", "stride": "s", "padding": "p", "dilation": "d", "groups": "groups"}
_NEUTRAL = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
_HIDDEN = ("bias", "in_channels", "out_channels", "in_features", "out_features", "num_features")


def settings_short(spec: LayerSpec) -> str:
    """`conv2d, k 3, p 1`; what changes nothing is left out."""
    parts = [spec.kind]
    for name, symbol in _SYMBOLS.items():
        value = spec.geometry.get(name)
        if value is not None and _plain(value) != _NEUTRAL.get(name):
            parts.append(f"{symbol} {_plain(value)}")
    return ", ".join(parts)


def settings_list(spec: LayerSpec) -> tuple[tuple[str, str], ...]:
    """(name, value), in the words of torch."""
    return tuple(
        (name, _plain(value))
        for name, value in spec.geometry.items()
        if name not in _HIDDEN and value is not None
    )


def _plain(value: Any) -> Any:
    """(3, 3) as 3, (3, 5) as 3×5."""
    if isinstance(value, (tuple, list)):
        return value[0] if len(set(value)) == 1 else "×".join(map(str, value))
    return value
