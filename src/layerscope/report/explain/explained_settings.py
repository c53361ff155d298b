"""A layer's settings in words."""

from typing import Any

from layerscope.networks.layer_calls import DescribedCall
from layerscope.report.document.escape import escaped
from layerscope.report.profile.formulas import number_latex, symbol_latex

_SYMBOLS = {"kernel_size": "k", "stride": "s", "padding": "p", "dilation": "d", "groups": "groups"}
_NEUTRAL = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
_WORDS = {
    "kernel_size": "Kernel",
    "stride": "Stride",
    "padding": "Padding",
    "dilation": "Dilation",
    "eps": "Epsilon, added to the variance",
    "p": "Probability of dropping",
}
# Said elsewhere: the channels in the shapes, the bias among the parameters.
_SHOWN_ELSEWHERE = (
    *("bias", "in_channels", "out_channels", "in_features", "out_features", "num_features"),
    *("affine", "track_running_stats", "return_indices"),
)
_USUAL = {
    "padding_mode": "zeros",
    "ceil_mode": False,
    "count_include_pad": True,
    "groups": 1,
    "dilation": 1,
    "output_padding": 0,
}


def settings_short(spec: DescribedCall) -> str:
    """`Conv2d, k 3, p 1`; what changes nothing is left out."""
    parts = [spec.type]
    for name, symbol in _SYMBOLS.items():
        value = spec.geometry.get(name)
        if value is not None and _plain(value) != _NEUTRAL.get(name):
            parts.append(f"{symbol} {_plain(value)}")
    return ", ".join(parts)


def settings_lines(spec: DescribedCall) -> tuple[str, ...]:
    """In Markdown; a setting with which a layer does the usual thing is left out."""
    lines = []
    for name, value in spec.geometry.items():
        plain = _plain(value)
        usual = name in _USUAL and plain == _USUAL[name]
        if name in _SHOWN_ELSEWHERE or value is None or usual:
            continue
        if name == "training":
            lines.append("Train mode" if value else "Eval mode")
        else:
            lines.append(_line(name, plain))
    return tuple(lines)


def _line(name: str, value: Any) -> str:
    words = _WORDS.get(name, name.replace("_", " ").capitalize())
    symbol = _SYMBOLS.get(name)
    if symbol is None or symbol == name or isinstance(value, str):
        return f"{escaped(words)}: {escaped(str(value))}"
    number = number_latex(symbol, value)
    return f"{words}: ${symbol_latex(symbol)} = {number}$"


def _plain(value: Any) -> Any:
    """(3, 3) as 3, (3, 5) as 3×5."""
    if isinstance(value, (tuple, list)):
        return value[0] if len(set(value)) == 1 else "×".join(map(str, value))
    return value
