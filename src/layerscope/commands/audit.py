"""Audit a file of claims about a network: each printed figure beside the right one."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from layerscope.audit import Audit, audit_network, read_claims
from layerscope.base.errors import RunFailed, UserError
from layerscope.base.files import write_json
from layerscope.commands.network import new_network, refuse_groups
from layerscope.commands.runner import Command, Job, Request, run_command
from layerscope.config.overrides import key_of
from layerscope.config.problems import parse
from layerscope.config.schema import AuditConfig
from layerscope.report.audit import save_audit, show_audit
from layerscope.report.terminal import Screen
from layerscope.training.provenance import describe_environment

# Groups that come with a network's recipe and say nothing about its claims.
_RECIPE = ("optimizer", "loss", "trainer")
_DOES = (
    "Check a table of printed figures, a paper's or a lecture's, against the network it is about."
)


@dataclass(frozen=True)
class _AuditCommand(Command):
    """Compose the network that the file names, unless the user names another.

    Args:
        file: what the user gave before any key.
    """

    file: Path | None = None

    def composed(self, overrides: Sequence[str]) -> list[str]:
        """Put the file's words before the user's."""
        if self.file is None or any(key_of(o).split(".")[0] == "model" for o in overrides):
            return list(overrides)
        return [*read_claims(self.file).network, *overrides]


def command(config_dir: Path, file: Path | None = None) -> Command:
    """Return what `layerscope audit` does.

    Args:
        config_dir: of the configurations' files.
        file: of claims; None: none was given.
    """
    check = partial(check_audit, file)
    return _AuditCommand("audit", config_dir, AuditConfig, _DOES, check, file=file)


def run_audit(argv: Sequence[str], config_dir: Path) -> int:
    """Take the file from before the keys, and return the exit code of docs/reference.md."""
    has_file = bool(argv) and "=" not in argv[0] and not argv[0].startswith("-")
    file = Path(argv[0]).expanduser() if has_file else None
    return run_command(argv[1:] if has_file else argv, command(config_dir, file))


def check_audit(file: Path | None, request: Request) -> Job:
    """Judge the claims, and only then let anything be written.

    Raises:
        UserError: the file or a key is wrong, or the network does not run.
    """
    if file is None:
        raise UserError("there is nothing to audit: give a file of claims first, audit FILE")
    refuse_groups(request.overrides, _RECIPE, "claims")
    config = parse(AuditConfig, {"model": request.values["model"]})
    claims = read_claims(file)
    with torch.random.fork_rng([]):
        network = new_network(config.model, request.targets)
    audit = audit_network(network, claims)
    return partial(_save, claims.title or file.name, audit, request.overrides)


def _save(title: str, audit: Audit, overrides: tuple[str, ...], directory: Path) -> None:
    """Write audit.json and print what is not as it is printed.

    Raises:
        RunFailed: a figure is wrong.
    """
    screen = Screen()
    write_json(directory / "run.json", describe_environment(overrides))
    save_audit(directory / "audit.json", audit)
    show_audit(screen, title, audit)
    screen.say(f"all files: {directory}")
    wrong = sum(cell.verdict == "wrong" for cell in audit.cells)
    if wrong:
        raise RunFailed(f"{wrong:,} of {len(audit.cells):,} printed figures are wrong: see above")
