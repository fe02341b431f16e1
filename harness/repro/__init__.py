"""Repro bundles: a zip that rebuilds a run elsewhere, and holds its metrics to what they were."""

from harness.repro.environment import env_snapshot
from harness.repro.rerun import repro
from harness.repro.write import create_repro_bundle

__all__ = ["create_repro_bundle", "env_snapshot", "repro"]
