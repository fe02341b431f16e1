"""How well a model does on a dataset: the task's metrics, and numbers for every sample."""
