"""`layerscope NAME …`, or `python -m layerscope NAME …`: the commands, wherever it is installed."""

import sys
from typing import NoReturn

from layerscope.base.signals import leave, one_line_on_signals

with one_line_on_signals():
    from layerscope.commands import main as commands


def main() -> NoReturn:
    """Run the command that `sys.argv` names, and end the process with its exit code."""
    leave(commands.main(sys.argv[1:]))


if __name__ == "__main__":
    main()
