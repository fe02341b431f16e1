"""What the processes of the tests do."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing import get_context
from typing import Any

from harness.experiments import ExperimentDB, Rhythm

_context = get_context("spawn")


def together(number: int, work: Callable[..., None], *arguments: Any) -> list[str]:
    """Runs a function in processes that begin it at the same moment; returns what went wrong."""
    start, wrong = _context.Barrier(number), _context.SimpleQueue()
    processes = [_context.Process(target=_guarded, args=(start, wrong, work, index, *arguments)) for index in range(number)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    errors = [f"exit status {process.exitcode}" for process in processes if process.exitcode]
    while not wrong.empty():
        errors.append(wrong.get())
    return errors


def _guarded(start: Any, wrong: Any, work: Callable[..., None], *arguments: Any) -> None:
    start.wait(60)
    try:
        work(*arguments)
    except Exception as error:
        wrong.put(repr(error))


def write_a_run(index: int, address: str, steps: int) -> None:
    """Makes the database where it is not there, and writes to it in every way: metrics, then read-and-write transactions."""
    with ExperimentDB(address, Rhythm(flush_rows=50, flush_seconds=0.05)) as db, db.start_run(f"writer-{index}") as run:
        for step in range(steps):
            run.log_metrics({"loss": 1 / (step + 1), "rate": index}, step=step)
            if step % 100 == 0:
                run.add_facts(**{f"step {step}": index})
                db.set_name("newest", run)


def log_until_killed(address: str, flush_seconds: float) -> None:
    """Logs a row every millisecond, and prints a line once the first is written."""
    import time

    run = ExperimentDB(address, Rhythm(flush_seconds=flush_seconds, heartbeat_seconds=0.1)).start_run("doomed")
    run.log_metric("loss", 0.0, step=0)
    run.flush()
    print("begun", flush=True)
    step = 0
    while True:
        step += 1
        run.log_metric("loss", float(step), step=step)
        time.sleep(0.001)
