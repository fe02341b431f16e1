"""Models that break a property of tier 2."""
