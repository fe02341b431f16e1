"""What the trials of the tests do; at the top of a module, so that other processes find it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from harness.errors import DataError
from harness.sweeps.trials import TrialContext

BASE: dict[str, Any] = {"task_name": "lm_tiny", "learning_rate": 0.1, "batch_size": 8, "run_name": "tests"}


def quick(trial: TrialContext) -> dict[str, float]:
    """A loss that is least at a rate of 0.01 and a batch of 8, without its own run."""
    rate, size = trial.config.learning_rate, trial.config.batch_size
    return {"val_loss": abs(rate - 0.01) * 100 + abs(size - 8), "val_accuracy": 1 / size}


def tiny_training(trial: TrialContext) -> dict[str, float]:
    """Fits a line by gradient descent; logs the way of it to a run."""
    import torch

    torch.manual_seed(0)
    inputs = torch.randn(64, 3)
    targets = inputs @ torch.tensor([[1.0], [2.0], [3.0]])
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=trial.config.learning_rate)
    with trial.run() as run:
        for step in range(20):
            loss = torch.nn.functional.mse_loss(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.log_metrics({"train_loss": loss, "learning_rate": trial.config.learning_rate}, step=step)
        value = torch.nn.functional.mse_loss(model(inputs), targets).item()
        run.log_metrics({"val_loss": value, "threads": torch.get_num_threads(), "process": os.getpid()})
    return {"val_loss": value}


def told(trial: TrialContext) -> dict[str, float]:
    """Does what ``model_kwargs.do`` says, with its own run."""
    do = trial.config.model_kwargs["do"]
    with trial.run() as run:
        run.log_metric("train_loss", 1.0, step=0)
        run.flush()
        _ACTIONS[do.partition(":")[0]](do.partition(":")[2])
        run.log_metric("val_loss", float(len(do)))
    return {"val_loss": float(len(do))}


def once_told(trial: TrialContext) -> dict[str, float]:
    """Leaves a line in the file ``model_kwargs.log`` each time it is run, then does as it is told."""
    with Path(trial.config.model_kwargs["log"]).open("a") as log:
        log.write(f"{trial.config.batch_size} {os.getpid()}\n")
    if trial.config.batch_size > 4 and not Path(trial.config.model_kwargs["go"]).exists():
        with trial.run():
            time.sleep(120)
    return quick(trial)


def returns_nothing(trial: TrialContext) -> dict[str, float]:
    return None  # type: ignore[return-value]


def raises_before_its_run(trial: TrialContext) -> dict[str, float]:
    raise DataError("train.jsonl, line 3: no text")


def nothing_finite(trial: TrialContext) -> dict[str, float]:
    return {"val_loss": float("nan" if trial.config.batch_size > 4 else "inf")}


def some_lack_the_metric(trial: TrialContext) -> dict[str, float]:
    return {"val_loss": 1.0, **({"val_f1": 0.5} if trial.config.batch_size == 4 else {})}


def interrupts_itself(trial: TrialContext) -> dict[str, float]:
    """Ctrl-C in the middle of the trial of batch size 8, as a library sees it that turns it into an exit."""
    if trial.config.batch_size == 8:
        with trial.run():
            try:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(5)
            except KeyboardInterrupt:
                raise SystemExit(1)  # noqa: B904 - as Lightning does
    return quick(trial)


def _fail(_: str) -> None:
    raise ValueError("a rate like this\nwill not do")


def _kill(_: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _exit(status: str) -> None:
    os._exit(int(status))


def _leave(status: str) -> None:
    raise SystemExit(int(status))


def _print(words: str) -> None:
    print(words)


_ACTIONS = {"work": lambda _: None, "fail": _fail, "kill": _kill, "exit": _exit, "leave": _leave, "print": _print}
