"""python scripts/profile_model.py model=cifar_cnn

What every layer costs in theory, what the instruments measured, and why the two differ.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from layerscope_signals import leave, one_line_on_signals

with one_line_on_signals():
    from layerscope.commands.profile import command
    from layerscope.commands.runner import run_command

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def main(argv: Sequence[str]) -> int:
    return run_command(argv, command(CONFIGS))


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
