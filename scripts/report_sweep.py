"""python scripts/report_sweep.py DIR

Report on a sweep: means over seeds, accuracy against cost, learning curves, failed jobs.
"""

import sys
from collections.abc import Sequence

from layerscope.base.signals import leave, one_line_on_signals

with one_line_on_signals():
    from layerscope.commands.main import run


def main(argv: Sequence[str]) -> int:
    return run("report-sweep", argv)


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
