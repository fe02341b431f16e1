"""Nets of the size people start from, each a file of its own, as a config's `model_file` names it."""
