"""Models and exported files that break a property of tier 4."""
