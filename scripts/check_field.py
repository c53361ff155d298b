"""python scripts/check_field.py [NAME ...] [--size PIXELS]

Profile torchvision's convolutional classifiers in train mode, at the crop size of their default
weights, and say whether anything is left unexplained. All of them take a quarter of an hour.
"""

import argparse
import sys
from collections.abc import Sequence

from layerscope.errors import UserError
from layerscope.profiling.field import run_field
from layerscope.report.terminal import Screen, complain


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all of them")
    parser.add_argument("--size", type=int, help="image size; default: the default weights' crop")
    options = parser.parse_args(argv)
    try:
        return run_field(tuple(options.names), options.size, Screen().say)
    except UserError as error:
        complain(f"error: {error}")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
