"""Errors that a user can cause, each with its exit code (docs/reference.md, "Exit codes")."""

import unicodedata

SHOWN_CHARACTERS = 160  # of a longer text only what stands around the mistake


class UserError(ValueError):
    """The command, configuration, checkpoint or data is wrong; names cause and mend in one line."""

    exit_code = 2


class MarkedError(UserError):
    """A mistake at one place of a text: the one line, and below it the text and carets.

    Args:
        start: index of the first wrong character; the text's length where something is missing.
        end: behind the last one.
    """

    def __init__(self, message: str, text: str, start: int, end: int) -> None:
        shown, start, end = _excerpt(text, start, end)
        shown = "".join(c if c.isprintable() else " " for c in shown)
        carets = " " * _cells(shown[:start]) + "^" * max(1, _cells(shown[start:end]))
        super().__init__(f"{message}\n  {shown}\n  {carets}")

    def __reduce__(self) -> tuple[type[UserError], tuple[str]]:
        return UserError, (str(self),)  # what another process gets


def _excerpt(text: str, start: int, end: int) -> tuple[str, int, int]:
    """Return the text, or a part around the place, and the place in it."""
    if len(text) <= SHOWN_CHARACTERS:
        return text, start, end
    first = max(0, min(start - SHOWN_CHARACTERS // 2, len(text) - SHOWN_CHARACTERS))
    last = first + SHOWN_CHARACTERS
    before, behind = "…" * (first > 0), "…" * (last < len(text))
    offset = len(before) - first
    return f"{before}{text[first:last]}{behind}", start + offset, min(end, last) + offset


def _cells(text: str) -> int:
    """Count the columns that a terminal takes for it."""
    return sum(
        0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF")
        for c in text
    )


class RunFailed(RuntimeError):
    """The run failed for a reason outside the command: a full disk, failed jobs of a sweep."""

    exit_code = 1


class Terminated(RuntimeError):
    """SIGTERM came; state is saved where there was any."""

    exit_code = 143


class Interrupted(RuntimeError):
    """Ctrl-C came; state is saved."""

    exit_code = 130


class NonFiniteLoss(RuntimeError):
    """The loss became nan or infinite."""

    exit_code = 3
