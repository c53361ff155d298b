"""Two profiles held against each other: where their figures differ, and why."""

from layerscope.compare.clock import ClockDifference
from layerscope.compare.differences import Difference, ProfileComparison, compare_profiles
from layerscope.compare.saved import FORMAT, SavedLayer, SavedProfile, read_profile, saved_profile

__all__ = [
    "FORMAT",
    "ClockDifference",
    "Difference",
    "ProfileComparison",
    "SavedLayer",
    "SavedProfile",
    "compare_profiles",
    "read_profile",
    "saved_profile",
]
