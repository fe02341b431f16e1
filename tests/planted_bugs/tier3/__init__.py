"""Trainings that break a property of tier 3."""
