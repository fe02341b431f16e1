"""Trainings that are killed at random moments and resumed, compared with the one that was not: weights, history, best checkpoint, database.

    python benchmarks/kills.py --engine plain --kills 60

A kill is a timer of the system's that ends the process in whatever it does: anywhere in a training, while a checkpoint is written, or while
the database is written by one of its two threads. Each training is killed once to three times before it may end. Python and torch are
imported once, and each training is a fork of that process.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import shutil
import signal
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harness.config import SuiteConfig
from harness.experiments import ExperimentDB, Rhythm
from harness.experiments.store import Store
from harness.models.stubs import build_stub
from harness.runtime import seeded
from harness.training import checkpoints, coordinator
from harness.training.run import run_training

SUITE: dict[str, Any] = {
    "task_name": "lm_tiny",
    "epochs": 6,
    "batch_size": 4,
    "learning_rate": 0.006,
    "checkpoint_every_n_steps": 2,
    "early_stopping_patience": 1,
    "train": {"dataset_id": "lm_tiny_v1", "max_eval_examples": 12},
    "eval": {"dataset_id": "lm_tiny_v1", "max_eval_examples": 4},
}
PLACES = ("anywhere", "while a checkpoint is written", "while the database is written")
_QUICK = Rhythm(flush_seconds=0.02, heartbeat_seconds=0.1)
"""So that the thread writes about as often as a training of hours would between two of its checkpoints."""


@dataclass(frozen=True)
class Moment:
    """When a training is killed.

    Attributes:
        place: One of ``PLACES``.
        entry: The how manieth time that it comes there.
        seconds: How long after that.
    """

    place: str
    entry: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.place}, time {self.entry}, after {self.seconds * 1000:.2f} ms"


class Places:
    """Notes when a training comes to a place and how long it is there; kills the process at a moment, in whatever it then does.

    The timer is the system's, and what it does is to end the process at once: no handler and no ``finally`` runs.

    Args:
        moment: When; ``None`` for never.
    """

    def __init__(self, moment: Moment | None) -> None:
        self._moment = moment
        self.spans: dict[str, list[float]] = {place: [] for place in PLACES}
        checkpoints.replacing = self._noting(PLACES[1], checkpoints.replacing)  # type: ignore[assignment]
        Store.writing = self._noting(PLACES[2], Store.writing)  # type: ignore[method-assign]

    @contextmanager
    def at(self, place: str) -> Iterator[None]:
        """A block that is of a place."""
        started, number = time.perf_counter(), len(self.spans[place])
        self.spans[place].append(0.0)
        if self._moment is not None and (place, number + 1) == (self._moment.place, self._moment.entry):
            signal.setitimer(signal.ITIMER_REAL, self._moment.seconds)
        yield
        self.spans[place][number] = time.perf_counter() - started

    def _noting(self, place: str, block: Callable[..., Any]) -> Callable[..., Any]:
        @contextmanager
        def noted(*arguments: Any, **keys: Any) -> Iterator[Any]:
            with self.at(place), block(*arguments, **keys) as given:
                yield given

        return noted


def train(folder: Path, engine: str, *, resume: bool = False) -> None:
    """Trains in this process."""
    suite = SuiteConfig.model_validate({**SUITE, "resume_from_checkpoint": "last" if resume else None})
    task = suite.task_spec()
    with seeded(0), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options: dict[str, Any] = {"train_cfg": suite.train, "folder": folder, "engine": engine, "progress": False}
        db = ExperimentDB(folder / "e.db", _QUICK)
        run_training(build_stub(task), None, suite.training_config(), task, suite.eval, db=db, **options)


def train_apart(folder: Path, engine: str, moment: Moment | None = None, *, resume: bool = False) -> dict[str, list[float]]:
    """Trains in a fork of this process; returns how long it was at each place each time, and nothing where it was killed."""
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(told)
        status = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            places = Places(moment)
            with places.at("anywhere"):
                train(folder, engine, resume=resume)
            os.write(tell, json.dumps(places.spans).encode())
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(tell)
    with os.fdopen(told) as answer:
        said = answer.read()
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status) and status:
        raise SystemExit("a training ended with an error")
    return json.loads(said) if said else {}


def draw_moment(draw: random.Random, spans: dict[str, list[float]]) -> Moment:
    """A moment of a training that was at places for so long; a little beyond the end of a span too, where files are put in place."""
    place = draw.choice(PLACES)
    entry = draw.randint(1, len(spans[place]))
    return Moment(place, entry, max(1e-6, draw.uniform(0.0, 1.3 * spans[place][entry - 1])))


def outcome(folder: Path) -> dict[str, Any]:
    """What must not depend on whether a training was killed."""
    kept = folder / "checkpoints" / "lm_tiny"
    found: dict[str, Any] = {}
    for name, path in (("last", kept / "last.ckpt"), ("best", next(iter(kept.glob("epoch=*.ckpt"))))):
        content = torch.load(path, weights_only=True)
        state = content.get("conductor") or content["callbacks"]["Bridge"]["conductor"]
        found[f"{name} weights"] = {key: tensor.tolist() for key, tensor in content["state_dict"].items()}
        found[f"{name} optimizer"] = repr(content["optimizer_states"])
        found[f"{name} history"] = repr({key: value for key, value in state["history"].items() if key != "seconds"})
        found[f"{name} early stopping"] = repr({key: state[key] for key in ("best", "best_name", "waited", "metrics", "initial")})
    found["files"] = sorted(path.name for path in kept.iterdir())
    with ExperimentDB(folder / "e.db") as db:
        run = db.list_runs(limit=1)[0]
        rows = db.get_metrics(run)
        logged = zip(rows.name, rows.step, rows.epoch, rows.value.tolist(), strict=True)
        found["database: metrics"] = sorted(
            (name, step, epoch, 0.0 if name == "examples_per_second" else value) for name, step, epoch, value in logged
        )
        found["database: status"] = run.status
        found["database: scores"] = db.get_scores(run, "loss").values.tolist()
        found["database: artifacts"] = sorted(
            (one.kind, Path(one.path).name.replace(f"run-{run.id}-", "")) for one in db.get_artifacts(run)
        )
        found["database: facts"] = {key: run.facts[key] for key in ("steps", "strategy", "devices")}
        found["database: notes"] = [note for note in run.facts["notes"] if "resume" not in note]
    return found


def main() -> int:
    """Prints how many of the killed trainings were equal; 1 where one was not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=("plain", "lightning"), default="plain")
    parser.add_argument("--kills", type=int, default=60, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbose", action="store_true", help="print what differs")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    draw = random.Random(arguments.seed)
    done, unequal, trainings = Counter[str](), 0, 0
    with tempfile.TemporaryDirectory(prefix="modeltiers-kills-") as name:
        base = Path(name)
        coordinator.write_dashboard = lambda *_: {}  # drawing the page takes longer than all else
        train(base / "first", arguments.engine)  # what it imports is there from here on
        gc.freeze()
        spans = train_apart(base / "whole", arguments.engine)
        whole = outcome(base / "whole")
        while sum(done.values()) < arguments.kills:
            folder, trainings = base / str(trainings), trainings + 1
            kills: list[Moment] = []
            while len(kills) < draw.randint(1, 3):
                moment = draw_moment(draw, spans)
                if train_apart(folder, arguments.engine, moment, resume=bool(kills)):
                    break  # it ended before that moment
                kills.append(moment)
                done[moment.place] += 1
            else:
                train_apart(folder, arguments.engine, resume=True)
            found = outcome(folder)
            different = [key for key in whole if found[key] != whole[key]]
            if different:
                unequal += 1
                print(f"different: {', '.join(different)}; killed {'; '.join(map(str, kills))}", flush=True)
                for key in different if arguments.verbose else ():
                    print(f"  {key}\n    {str(whole[key])[:2000]}\n    {str(found[key])[:2000]}", flush=True)
            shutil.rmtree(folder)
    for place, count in done.items():
        print(f"{place}: {count} kills")
    total = sum(done.values())
    print(
        f"{arguments.engine}: {trainings - unequal} of {trainings} trainings equal to the uninterrupted one, after {total} kills"
    )
    return 1 if unequal else 0


if __name__ == "__main__":
    raise SystemExit(main())
