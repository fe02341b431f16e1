"""Measures how much of a run is spent inside the user's model and autograd.

    python benchmarks/profile_share.py [CONFIG]

The clock starts when everything is imported and the config is about to be collected, and stops at the end of the session, so it
includes collection, drawing examples, verdicts and reports. Time inside the model is that of the outermost ``nn.Module`` call, of
``backward`` and of ``autograd.grad``.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from harness.catalogue import modules_of

IMPORTS = (
    "harness.health.markdown",
    "harness.health.page",
    "harness.models.loading",
    "pytest_modeltiers.fixtures",
    "pytest_modeltiers.fixes",
    "pytest_modeltiers.terminal",
    "pytest_modeltiers.verdicts",
    "torch._meta_registrations",
    *modules_of(1),
)


class Stopwatch:
    """Adds up the time spent in the outermost of the wrapped calls."""

    def __init__(self) -> None:
        self.inside = 0.0
        self.depth = 0
        self.started = 0.0
        self.total = 0.0

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            if self.depth:
                return function(*args, **kwargs)
            self.depth = 1
            begin = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.inside += time.perf_counter() - begin
                self.depth = 0

        return timed

    def pytest_sessionstart(self) -> None:
        self.started = time.perf_counter()

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        self.total = time.perf_counter() - self.started


def main() -> int:
    config = sys.argv[1] if len(sys.argv) > 1 else "examples/lm_tiny.json"
    begin = time.perf_counter()
    for name in IMPORTS:
        __import__(name)
    # The first call on the meta device loads operator tables, and the first autograd call its own: imports in all but name.
    nn.functional.scaled_dot_product_attention(*(torch.empty(1, 1, 2, 4, device="meta") for _ in range(3)))
    torch.ones(2, requires_grad=True).sum().backward()
    imports = time.perf_counter() - begin
    watch = Stopwatch()
    nn.Module.__call__ = watch.wrap(nn.Module.__call__)  # type: ignore[method-assign]
    torch.Tensor.backward = watch.wrap(torch.Tensor.backward)  # type: ignore[method-assign]
    torch.autograd.grad = watch.wrap(torch.autograd.grad)
    with tempfile.TemporaryDirectory() as folder:
        status = pytest.main(
            ["-q", "--model-config", config, "--model-report", folder, "-p", "no:cacheprovider"], plugins=[watch]
        )
    print(
        f"imports {imports:.2f} s; run {watch.total:.2f} s, inside the model {watch.inside:.2f} s = {watch.inside / watch.total:.0%}"
    )
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
