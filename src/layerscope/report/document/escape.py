"""Text that comes from outside, in Markdown."""

import re


def escaped(text: str) -> str:
    """Names come from outside: nothing in them is markup, and no cell ends early."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*\[\]|~$#])", r"\\\1", text)
    # An underscore inside of a word is none of Markdown's.
    text = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)
    return " ".join(text.split())
