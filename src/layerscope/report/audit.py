"""What an audit says: in one sentence, on the terminal, and as audit.json."""

from pathlib import Path

from layerscope.audit import Audit, verdict_counts
from layerscope.base.files import write_json
from layerscope.base.formatting import wrapped
from layerscope.report.document import Table, columns_in
from layerscope.report.terminal import Screen

_PLACES = {"table": "in tables", "text": "in the running text", "claim": "in claims"}


def counted(audit: Audit) -> str:
    """Say how many figures fare how, by where they stand."""
    counts = {(c.place, c.verdict): c.num_cells for c in verdict_counts(audit.cells)}
    parts = []
    for place, words in _PLACES.items():
        agree, rounded, wrong = (counts[place, v] for v in ("agrees", "rounding", "wrong"))
        if agree + rounded + wrong:
            parts.append(
                f"{agree + rounded + wrong:,} {words} ({agree:,} agree, {rounded:,} rounding, "
                f"{wrong:,} wrong)"
            )
    return ", ".join(parts) or "none"


def audit_line(audit: Audit) -> str:
    """Say how the walkthrough's figures fare, beside a profile that they are not about."""
    return (
        "Not about this profile: the figures that the walkthrough of this network prints, "
        f"recomputed at batch 32 in fp32: {counted(audit)}; findings about its sentences: "
        f"{len(audit.findings):,}."
    )


def show_audit(screen: Screen, title: str, audit: Audit) -> None:
    """Print every figure that is not right, and what holds in the place of each sentence."""
    off = [cell for cell in audit.cells if cell.verdict != "agrees"]
    if off:
        columns = (
            *columns_in("text", "where", "what", "verdict"),
            *columns_in("number", "printed", "right"),
        )
        rows = tuple((c.where, c.paraphrase, c.verdict, c.printed, c.right) for c in off)
        screen.show(Table(columns, rows, title=title))
    for finding in audit.findings:
        for text in (f"- {finding.claim}", f"  Right: {finding.right}", f"  {finding.why}"):
            screen.say(wrapped(text, indent="  ", width=screen.width))
    screen.say(f"{title}: {counted(audit)}")


def save_audit(path: Path, audit: Audit) -> None:
    """Write figures and sentences."""
    record = {
        "cells": [vars(cell) for cell in audit.cells],
        "findings": [vars(finding) for finding in audit.findings],
    }
    write_json(path, record)
