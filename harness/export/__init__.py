"""From a model to files that others run, and the proof that the files do what the model does."""
