"""python scripts/check_zoo.py [--only GROUP|NAME] [--variants [NAME ...]] [--jobs N] [--retry]

Profile the networks of the zoo and say whether anything is left unexplained. Stopped and started
again, it goes on with those that have no result yet.
"""

import sys

from layerscope.base.signals import leave, one_line_on_signals

with one_line_on_signals():
    from layerscope.commands.main import run

if __name__ == "__main__":
    leave(run("check-zoo", sys.argv[1:]))
