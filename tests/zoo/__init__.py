"""Planted bugs: models that break one property, each beside a corrected twin that differs in a few lines."""
