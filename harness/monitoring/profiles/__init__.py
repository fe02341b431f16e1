"""Profiles: counts kept of data, instead of the data."""

from harness.errors import ProfileError, ProfileMismatchError, ProfileVersionError
from harness.monitoring.features.counts import CategoricalCounts, Clusters, NumericCounts, Projection, VectorCounts
from harness.monitoring.profiles.compute import compute_dataset_profile, profile_columns
from harness.monitoring.profiles.profile import Profile, load_profile
from harness.monitoring.profiles.sources import Reading

__all__ = [
    "CategoricalCounts",
    "Clusters",
    "NumericCounts",
    "Profile",
    "ProfileError",
    "ProfileMismatchError",
    "ProfileVersionError",
    "Projection",
    "Reading",
    "VectorCounts",
    "compute_dataset_profile",
    "load_profile",
    "profile_columns",
]
