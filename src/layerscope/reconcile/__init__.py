from layerscope.reconcile.measurements import EXACT_INSTRUMENTS, INSTRUMENTS
from layerscope.reconcile.peak import Peak
from layerscope.reconcile.profile import Profile, profile_network
from layerscope.reconcile.roofline import LayerTiming
from layerscope.reconcile.rows import EXACT_QUANTITIES, Reason, Row
from layerscope.reconcile.settings import DTYPES, Settings

__all__ = [
    "DTYPES",
    "EXACT_INSTRUMENTS",
    "EXACT_QUANTITIES",
    "INSTRUMENTS",
    "LayerTiming",
    "Peak",
    "Profile",
    "Reason",
    "Row",
    "Settings",
    "profile_network",
]
