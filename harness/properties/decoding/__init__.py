"""Models that write a text token by token: caches, prompts padded on the left, and ``generate``."""
