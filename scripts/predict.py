"""python scripts/predict.py ckpt_path=outputs/train/.../checkpoints/best.ckpt image=photo.png

Print what a checkpoint's network takes a photo for: the softmax probability of each class.
"""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from layerscope_signals import leave, one_line_on_signals

with one_line_on_signals():
    from layerscope.commands.predict import check_prediction
    from layerscope.commands.runner import Command, run_command

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
OWN_KEYS = frozenset({"ckpt_path", "image"})


def main(argv: Sequence[str]) -> int:
    check = partial(check_prediction, CONFIGS)
    command = Command("predict", CONFIGS, check, writes_files=False, own_keys=OWN_KEYS)
    return run_command(argv, command)


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
