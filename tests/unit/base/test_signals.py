import os
import signal
import time
from contextlib import suppress

import pytest

from layerscope.base.errors import Interrupted, Terminated
from layerscope.base.signals import Signals, Stopped

ERRORS = {signal.SIGTERM: Terminated, signal.SIGINT: Interrupted}


class Dying:
    """What is raised while it goes is discarded."""

    def __init__(self, number):
        self.number = number

    def __del__(self):
        os.kill(os.getpid(), self.number)
        time.sleep(0)


def kill_and_wait(number):
    os.kill(os.getpid(), number)
    time.sleep(5)


def die_and_wait(number):
    dying = Dying(number)
    del dying
    time.sleep(5)


@pytest.mark.parametrize("number", ERRORS)
def test_a_signal_ends_what_runs(number):
    signals, previous = Signals(), signal.getsignal(number)
    with pytest.raises(Stopped), signals.raised():
        kill_and_wait(number)
    assert isinstance(signals.error("; hint"), ERRORS[number])
    assert str(signals.error("; hint")).endswith("; hint")
    assert signal.getsignal(number) == previous


@pytest.mark.parametrize("number", ERRORS)
def test_a_signal_that_python_discards_is_raised_again(number, capsys):
    signals, begin = Signals(), time.monotonic()
    with pytest.raises(Stopped), signals.raised():
        die_and_wait(number)
    assert time.monotonic() - begin < 4
    assert isinstance(signals.error(), ERRORS[number])
    assert capsys.readouterr().err == ""


def test_a_signal_that_a_library_discards_is_told_of_later():
    signals = Signals()
    with signals.raised():
        signals.check()
        with suppress(BaseException):
            kill_and_wait(signal.SIGTERM)
        with pytest.raises(Stopped):
            signals.check()


def test_the_first_signal_decides():
    signals = Signals()
    with signals.raised():
        for number in (signal.SIGTERM, signal.SIGINT):
            with pytest.raises(Stopped):
                kill_and_wait(number)
    assert isinstance(signals.error(), Terminated)
