"""The random state of every batch, as a matter of where the run is.

Each batch is computed under a seed made of the run's seed, the epoch, the batch's number and the process. So there is no state to save:
a run that goes on after having been killed, or that evaluates more often, draws what the uninterrupted one drew.
"""

from __future__ import annotations

from hashlib import blake2b

from harness.randomness import seed_everything


def seed_batch(seed: int, epoch: int, batch: int, rank: int = 0) -> None:
    """Seeds torch, Python and NumPy for one batch of a run."""
    digest = blake2b(f"{seed}:{epoch}:{batch}:{rank}".encode(), digest_size=4)
    seed_everything(int.from_bytes(digest.digest(), "little"))
