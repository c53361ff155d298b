from layerscope.audit.audit import (
    Audit,
    Cell,
    Finding,
    VerdictCount,
    audit_walkthrough,
    verdict_counts,
)

__all__ = ["Audit", "Cell", "Finding", "VerdictCount", "audit_walkthrough", "verdict_counts"]
