"""An artifact in a process of its own, as a deployment would load it."""
