"""python scripts/explain.py model=tiny_cnn

The arithmetic of every layer with its own numbers in it, forward and backward.
"""

import sys
from collections.abc import Sequence

from layerscope.base.signals import leave, one_line_on_signals

with one_line_on_signals():
    from layerscope.commands.main import run


def main(argv: Sequence[str]) -> int:
    return run("explain", argv)


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
