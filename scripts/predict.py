"""python scripts/predict.py ckpt_path=outputs/train/.../checkpoints/best.ckpt image=photo.png

Print what a checkpoint's network takes a photo for: the softmax probability of each class.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from layerscope_signals import leave, one_line_on_signals

with one_line_on_signals():
    from layerscope.commands.predict import command
    from layerscope.commands.runner import run_command

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def main(argv: Sequence[str]) -> int:
    return run_command(argv, command(CONFIGS))


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
