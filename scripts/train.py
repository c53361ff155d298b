"""python scripts/train.py model=cifar_cnn

Train a network, test its best checkpoint, and write what every layer cost. `-m` sweeps:
python scripts/train.py -m model.width=0.5,1,2 seed=0,1
"""

import sys
from collections.abc import Sequence

from layerscope.base.signals import leave, one_line_on_signals

with one_line_on_signals():
    from layerscope.commands.main import run


def main(argv: Sequence[str]) -> int:
    return run("train", argv)


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
