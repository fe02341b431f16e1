"""Looks inside a model: its attention, its gradients, its numbers in other precisions and kernels. Tier 2."""
