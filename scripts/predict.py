"""python scripts/predict.py ckpt_path=outputs/train/.../checkpoints/best.ckpt image=photo.png

Print what a checkpoint's network takes a photo for: the softmax probability of each class.
"""

import sys
from collections.abc import Sequence

from layerscope.base.signals import leave, one_line_on_signals

with one_line_on_signals():
    from layerscope.commands.main import run


def main(argv: Sequence[str]) -> int:
    return run("predict", argv)


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
