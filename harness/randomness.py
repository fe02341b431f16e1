"""The global random state of torch, Python and NumPy: seeded for a while, then put back."""

from __future__ import annotations

import pickle
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


class RandomState:
    """The global random state at the moment the object was made."""

    def __init__(self) -> None:
        self._torch = torch.default_generator.get_state()
        self._cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        self._python = random.getstate()
        self._numpy = np.random.get_state()

    def restore(self) -> None:
        """Makes it the global random state again."""
        torch.default_generator.set_state(self._torch)
        if self._cuda:
            torch.cuda.set_rng_state_all(self._cuda)
        random.setstate(self._python)
        np.random.set_state(self._numpy)

    def changes(self, later: RandomState) -> list[str]:
        """The generators whose state is another one in ``later``."""
        moved = {
            "torch": not torch.equal(self._torch, later._torch),
            "torch.cuda": not all(map(torch.equal, self._cuda, later._cuda)),
            "random": self._python != later._python,
            "numpy": pickle.dumps(self._numpy) != pickle.dumps(later._numpy),
        }
        return [name for name, changed in moved.items() if changed]


def seed_everything(seed: int) -> None:
    """Seeds the generators in use; ``torch.manual_seed`` would also format a stack trace for every accelerator that is not."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # all it takes; a seed that was counted up may be larger


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Runs a block under a seed and leaves the global random state as it was."""
    state = RandomState()
    seed_everything(seed)
    try:
        yield
    finally:
        state.restore()
