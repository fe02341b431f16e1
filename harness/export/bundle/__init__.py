"""A bundle: one folder with everything that a model needs to be run, checked and served elsewhere; it is whole, or it is not there."""
