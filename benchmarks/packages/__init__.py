"""A board of models that this project did not write: classes of packages from PyPI, each built tiny and judged by tiers 1 to 4."""
