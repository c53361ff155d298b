"""The errors a user can cause, and the exit code of each (docs/reference.md, "Exit codes")."""


class UserError(ValueError):
    """The command, configuration, checkpoint or data is wrong; names cause and mend in one line."""

    exit_code = 2


class RunFailed(RuntimeError):
    """The run failed for a reason outside the command: a full disk, failed jobs of a sweep."""

    exit_code = 1


class Terminated(RuntimeError):
    """SIGTERM came."""

    exit_code = 143


class NonFiniteLoss(RuntimeError):
    """The loss became nan or infinite."""

    exit_code = 3
