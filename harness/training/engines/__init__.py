"""The engines that take the steps: Lightning, and a plain loop that takes the same ones."""
