"""python scripts/compare.py a=OLD/profile.json b=NEW/profile.json

Say what grew and what shrank between two saved profiles, each difference in named reasons.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from layerscope_signals import leave, one_line_on_signals

with one_line_on_signals():
    from layerscope.commands.compare import command
    from layerscope.commands.runner import run_command

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def main(argv: Sequence[str]) -> int:
    return run_command(argv, command(CONFIGS))


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
