"""LaTeX as MathML, in the page's own colours."""

import re
from functools import lru_cache

from latex2mathml.converter import convert

_COLOUR = re.compile(r'<mstyle mathcolor="([a-z]+)">')
_GROUPED_DIGITS = re.compile(r"</mn><mrow><mo>&#x0002C;</mo></mrow><mn>")


@lru_cache(maxsize=16384)
def mathml(latex: str, display: bool) -> str:
    """A `<math>` element; colours are classes, so that a dark page can have lighter ones."""
    converted = convert(latex, display="block" if display else "inline")
    converted = converted.replace(' xmlns="http://www.w3.org/1998/Math/MathML"', "", 1)
    converted = converted.replace(' display="inline"', "", 1)
    converted = _GROUPED_DIGITS.sub(",", converted)  # 1{,}024 is one number
    # Browsers know this variant of a letter, not as an attribute.
    converted = converted.replace('<mn mathvariant="double-struck">1</mn>', "<mn>𝟙</mn>")
    return _COLOUR.sub(r'<mstyle class="\1">', converted)
