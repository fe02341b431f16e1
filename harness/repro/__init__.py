"""Repro bundles: a zip that rebuilds a run elsewhere, and holds its metrics to what they were."""

from harness.repro.bundle import create_repro_bundle
from harness.repro.environment import env_snapshot
from harness.repro.rerun import repro

__all__ = ["create_repro_bundle", "env_snapshot", "repro"]
