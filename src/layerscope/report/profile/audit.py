"""The audit of the walkthrough in one sentence."""

from layerscope.audit import Audit, verdict_counts

_PLACES = {"table": "in tables", "text": "in the running text", "claim": "in claims"}


def audit_line(audit: Audit) -> str:
    """How many figures fare how, by where they stand."""
    counts = {(c.place, c.verdict): c.num_cells for c in verdict_counts(audit.cells)}
    parts = []
    for place, words in _PLACES.items():
        agree, rounded, wrong = (counts[place, v] for v in ("agrees", "rounding", "wrong"))
        parts.append(
            f"{agree + rounded + wrong:,} {words} ({agree:,} agree, {rounded:,} rounding, "
            f"{wrong:,} wrong)"
        )
    return (
        "Not about this profile: the figures that the walkthrough of this network prints, "
        f"recomputed at batch 32 in fp32: {', '.join(parts)}; findings about its sentences: "
        f"{len(audit.findings):,}."
    )
