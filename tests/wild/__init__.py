"""Bugs that people reported, rebuilt in a few lines, each beside its correction."""
