"""python scripts/profile_model.py model=cifar_cnn

What every layer costs in theory, what the instruments measured, and why the two differ.
"""

import sys
from collections.abc import Sequence

from layerscope.base.signals import leave, one_line_on_signals

with one_line_on_signals():
    from layerscope.commands.main import run


def main(argv: Sequence[str]) -> int:
    return run("profile", argv)


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
