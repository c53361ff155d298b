"""python scripts/audit.py examples/claims/resnet50.json

Check a table of printed figures, a paper's or a lecture's, against the network it is about.
"""

import sys
from collections.abc import Sequence

from layerscope.base.signals import leave, one_line_on_signals

with one_line_on_signals():
    from layerscope.commands.main import run


def main(argv: Sequence[str]) -> int:
    return run("audit", argv)


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
