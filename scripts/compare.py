"""python scripts/compare.py a=OLD/profile.json b=NEW/profile.json

Say what grew and what shrank between two saved profiles, each difference in named reasons.
"""

import sys
from collections.abc import Sequence

from layerscope.base.signals import leave, one_line_on_signals

with one_line_on_signals():
    from layerscope.commands.main import run


def main(argv: Sequence[str]) -> int:
    return run("compare", argv)


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
