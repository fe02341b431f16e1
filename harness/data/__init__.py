"""Data: where the inputs of a model come from."""
