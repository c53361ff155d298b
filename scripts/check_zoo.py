"""python scripts/check_zoo.py [--only GROUP|NAME] [--variants [NAME ...]] [--jobs N] [--retry]

Profile the networks of the zoo and say whether anything is left unexplained. Stopped and started
again, it goes on with those that have no result yet.
"""

import sys

from layerscope.zoo.check import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
