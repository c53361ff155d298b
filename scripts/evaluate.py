"""python scripts/evaluate.py ckpt_path=outputs/train/.../checkpoints/best.ckpt

Score a checkpoint on the test set. Everything but ckpt_path comes from the checkpoint itself and
can be overridden: data.batch_size=100 trainer=cpu
"""

import sys
from collections.abc import Sequence

from layerscope.base.signals import leave, one_line_on_signals

with one_line_on_signals():
    from layerscope.commands.main import run


def main(argv: Sequence[str]) -> int:
    return run("evaluate", argv)


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
