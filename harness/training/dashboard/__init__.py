"""The dashboard of a training: its curves as a picture, and as a page that needs nothing else."""

from harness.training.dashboard.files import write_dashboard

__all__ = ["write_dashboard"]
