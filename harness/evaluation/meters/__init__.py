"""Metrics of the tasks as torchmetrics metrics, whose import takes seconds: only what evaluates imports this room."""
