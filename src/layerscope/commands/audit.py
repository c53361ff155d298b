"""Audit a file of claims about a network: each printed figure beside the right one."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from layerscope.audit import Audit, audit_network, read_claims
from layerscope.base.errors import RunFailed, UserError
from layerscope.base.files import write_json
from layerscope.base.targets import target_of
from layerscope.commands.runner import Job, Request
from layerscope.networks import build_network
from layerscope.report.audit import save_audit, show_audit
from layerscope.report.terminal import Screen
from layerscope.training.provenance import describe_environment


def network_of_claims(file: Path) -> Sequence[str]:
    """Return the network that a file of claims is about, in words of the command line."""
    return read_claims(file).network


def check_audit(request: Request) -> Job:
    """Judge the claims, and only then let anything be written.

    Raises:
        UserError: the file or a key is wrong, or the network does not run.
    """
    if request.file is None:
        raise UserError("there is nothing to audit: give a file of claims first, audit FILE")
    claims = read_claims(request.file)
    with torch.random.fork_rng([]):
        network = build_network(request.config.model, target_of(request.targets))
    audit = audit_network(network, claims)
    return partial(_save, claims.title or request.file.name, audit, request.overrides)


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
