from layerscope.reconcile.measurements import EXACT_INSTRUMENTS, INSTRUMENTS
from layerscope.reconcile.peak import Peak
from layerscope.reconcile.profile import Profile, profile_network
from layerscope.reconcile.roofline import LayerTiming
from layerscope.reconcile.rows import EXACT_QUANTITIES, Comparisons, Reason, Row
from layerscope.reconcile.settings import DTYPES, OPTIMIZERS, CallArguments, ProfileSettings

__all__ = [
    "DTYPES",
    "EXACT_INSTRUMENTS",
    "EXACT_QUANTITIES",
    "INSTRUMENTS",
    "OPTIMIZERS",
    "CallArguments",
    "Comparisons",
    "LayerTiming",
    "Peak",
    "Profile",
    "ProfileSettings",
    "Reason",
    "Row",
    "profile_network",
]
