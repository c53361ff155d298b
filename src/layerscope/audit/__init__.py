from layerscope.audit.audit import (
    Audit,
    JudgedClaim,
    JudgedFigure,
    VerdictCount,
    audit_network,
    verdict_counts,
    walkthrough_audit,
)
from layerscope.audit.claims import Claims, read_claims, walkthrough

__all__ = [
    "Audit",
    "Claims",
    "JudgedClaim",
    "JudgedFigure",
    "VerdictCount",
    "audit_network",
    "read_claims",
    "verdict_counts",
    "walkthrough",
    "walkthrough_audit",
]
