"""Tier 5 on tables that scikit-learn ships, by the public path: `config`, `profile`, `monitor` on windows of CSV files.

    python benchmarks/estimates.py [--quick] [--seeds 3] [--first-seed 0] [--processes 2] [--clean-only]

Each table is parted: one half trains a model, the other is the population from which the reference and every window are drawn at random with
replacement, so that a clean window differs from its reference by chance only. Seven models a table and seed, on windows of 500 or 1,000 rows
that are shifted in 12 ways. Reported are

* clean windows of 1,000 rows whose whole tier 5 is `ok`, with labels and without;
* of windows without labels that lost more than 10 points of accuracy (harmful): how many got `ok` from `harm`, and from all of tier 5;
* of windows that lost less than the margin of 5 points: how many failed `harm`;
* how far the estimated accuracy is from the true one, and how often its interval holds it; the last three also for shifts of kinds that
  the profile does not simulate (marked `*`).

Exit status 1 where a bound of `BOUNDS` does not hold.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn import datasets
from torch import nn

from harness.config import load_config
from harness.monitoring.profile_command import profile_config
from harness.monitoring.run import monitor_config

Rows = NDArray[np.float64]
Labels = NDArray[np.int64]
HARMFUL, MARGIN = 0.10, 0.05
BOUNDS = {"clean ok": 0.94, "wrong all-clear": 0.03, "false harm": 0.02, "mean absolute error": 0.05, "coverage": 0.85}

MODELS = '''
"""Seven classifiers of standardised numbers; a missing number counts as the mean."""
import torch
from torch import nn


class Standardised(nn.Module):
    def __init__(self, body, width):
        super().__init__()
        self.body = body
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))

    def forward(self, features):
        return self.body(torch.nan_to_num((features - self.mean) / self.deviation, posinf=0.0, neginf=0.0))


class Prototypes(nn.Module):
    def __init__(self, width, classes):
        super().__init__()
        self.places = nn.Parameter(torch.randn(4 * classes, width))
        self.scale = nn.Parameter(torch.tensor(0.0))
        self.classes = classes

    def forward(self, rows):
        squares = ((rows[:, None] - self.places) ** 2).mean(-1) * self.scale.exp()
        return (-squares).unflatten(1, (self.classes, 4)).logsumexp(-1)


class Fourier(nn.Module):
    def __init__(self, width, classes):
        super().__init__()
        self.register_buffer("directions", torch.randn(width, 128) / width**0.5 * 0.7)
        self.last = nn.Linear(256, classes)

    def forward(self, rows):
        phases = rows @ self.directions
        return self.last(torch.cat([phases.sin(), phases.cos()], 1))


def network(width, classes, hidden, depth=1, norm=False, dropout=0.0):
    layers = []
    for place in range(depth):
        layers += [nn.Linear(width if not place else hidden, hidden)]
        layers += [nn.BatchNorm1d(hidden)] if norm else []
        layers += [nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(hidden, classes))


BODIES = {
    "linear": lambda w, c: nn.Linear(w, c),
    "network": lambda w, c: network(w, c, 32),
    "overfitted": lambda w, c: network(w, c, 256, 2),
    "smoothed": lambda w, c: network(w, c, 64),
    "deep with norms": lambda w, c: network(w, c, 64, 3, norm=True),
    "prototypes": Prototypes,
    "Fourier features": Fourier,
}


def build_model(kind, width, classes):
    return Standardised(BODIES[kind](width, classes), width)
'''
KINDS = ("linear", "network", "overfitted", "smoothed", "deep with norms", "prototypes", "Fourier features")
STEPS = {"overfitted": 600}


def table(name: str) -> tuple[Rows, Labels]:
    rows, labels = getattr(datasets, f"load_{name}")(return_X_y=True)
    if name == "diabetes":  # a progression above its median, as a class
        labels = labels > np.median(labels)
    return np.asarray(rows, np.float64), np.asarray(labels, np.int64)


TABLES = ("digits", "breast_cancer", "wine", "iris", "diabetes")


@dataclass
class Population:
    """What windows are drawn from, in standard deviations about the mean.

    Attributes:
        rows: ``[N, D]``.
        labels: ``[N]``.
        random: Draws.
    """

    rows: Rows
    labels: Labels
    random: np.random.Generator

    def drawn(self, n: int, weights: Rows | None = None) -> tuple[Rows, Labels]:
        """Rows drawn with replacement, each with a probability in proportion to its weight."""
        shares = None if weights is None else weights / weights.sum()
        places = self.random.choice(len(self.rows), n, p=shares)
        return self.rows[places].copy(), self.labels[places]

    def some(self, share: float) -> NDArray[np.intp]:
        """Some of the columns, at least one."""
        width = self.rows.shape[1]
        return self.random.choice(width, max(1, round(share * width)), replace=False)


def clean(of: Population, n: int) -> tuple[Rows, Labels]:
    return of.drawn(n)


def resampled(of: Population, n: int) -> tuple[Rows, Labels]:
    direction = of.random.normal(size=of.rows.shape[1])
    along = of.rows @ (direction / np.linalg.norm(direction))
    return of.drawn(n, np.exp(of.random.uniform(1, 3) * along / along.std()))


def noise(of: Population, n: int) -> tuple[Rows, Labels]:
    rows, labels = of.drawn(n)
    return rows + of.random.normal(size=rows.shape) * of.random.uniform(0.3, 2), labels


def missing(of: Population, n: int) -> tuple[Rows, Labels]:
    rows, labels = of.drawn(n)
    rows[of.random.random(rows.shape) < of.random.uniform(0.1, 0.8)] = np.nan
    return rows, labels


def shuffled(of: Population, n: int) -> tuple[Rows, Labels]:
    rows, labels = of.drawn(n)
    for column in of.some(of.random.uniform(0.2, 0.7)):
        rows[:, column] = of.random.permutation(rows[:, column])
    return rows, labels


def label_shift(of: Population, n: int) -> tuple[Rows, Labels]:
    shares = of.random.dirichlet(np.full(of.labels.max() + 1, 0.4)) + 1e-9
    return of.drawn(n, shares[of.labels])


def subpopulation(of: Population, n: int) -> tuple[Rows, Labels]:
    squares = ((of.rows - of.rows[of.random.integers(len(of.rows))]) ** 2).sum(1)
    return of.drawn(n, (squares <= np.quantile(squares, of.random.uniform(0.1, 0.4))).astype(float))


def scaled(of: Population, n: int) -> tuple[Rows, Labels]:
    rows, labels = of.drawn(n)
    return rows * of.random.uniform(0.2, 3), labels


def units(of: Population, n: int) -> tuple[Rows, Labels]:
    rows, labels = of.drawn(n)
    for column in of.some(0.2):
        changed = of.random.random(n) < of.random.uniform(0.1, 1)
        rows[changed, column] = (rows[changed, column] + 3) * 10
    return rows, labels


def moved(of: Population, n: int) -> tuple[Rows, Labels]:
    rows, labels = of.drawn(n)
    columns = of.some(of.random.uniform(0.2, 1))
    rows[:, columns] += of.random.uniform(0.5, 2.5) * of.random.choice([-1, 1], len(columns))
    return rows, labels


def gone(of: Population, n: int) -> tuple[Rows, Labels]:
    rows, labels = of.drawn(n)
    rows[:, of.some(of.random.uniform(0.2, 0.8))] = of.random.uniform(-2, 2)
    return rows, labels


def coarse(of: Population, n: int) -> tuple[Rows, Labels]:
    rows, labels = of.drawn(n)
    step = of.random.uniform(0.5, 3)
    return np.round(rows / step) * step, labels


def turned(of: Population, n: int) -> tuple[Rows, Labels]:
    """Neighbouring columns mixed: of an image, a smear."""
    rows, labels = of.drawn(n)
    share = of.random.uniform(0.3, 0.9)
    return (1 - share) * rows + share * np.roll(rows, 1, axis=1), labels


Shift = Callable[[Population, int], tuple[Rows, Labels]]
SIMULATED: dict[str, Shift] = {"resampled": resampled, "noise": noise, "missing values": missing, "shuffled": shuffled}
NOT_SIMULATED: dict[str, Shift] = {
    "label shift *": label_shift,
    "subpopulation *": subpopulation,
    "scaled *": scaled,
    "other units *": units,
    "moved *": moved,
    "columns constant *": gone,
    "coarse values *": coarse,
    "columns mixed *": turned,
}
SHIFTS = {"clean": clean, **SIMULATED, **NOT_SIMULATED}


@dataclass
class Outcome:
    """One window without labels; where it is clean, also one with."""

    table: str
    model: str
    shift: str
    n: int
    before: float
    now: float
    estimate: float | None
    low: float | None
    high: float | None
    harm: str
    status: str
    labelled: str | None


def write(path: Path, rows: Rows, labels: Labels | None) -> None:
    names = [f"x{place}" for place in range(rows.shape[1])] + (["label"] if labels is not None else [])
    body = [",".join("" if np.isnan(value) else f"{value:.6g}" for value in row) for row in rows]
    if labels is not None:
        body = [f"{row},{label}" for row, label in zip(body, labels, strict=True)]
    path.write_text("\n".join([",".join(names), *body]) + "\n")


def trained(kind: str, rows: Rows, labels: Labels, seed: int) -> nn.Module:
    """A model of a kind, trained on all rows at once."""
    torch.manual_seed(seed)
    known: dict[str, Any] = {}
    exec(MODELS, known)
    model: nn.Module = known["build_model"](kind, rows.shape[1], int(labels.max()) + 1)
    model.mean.copy_(torch.tensor(rows.mean(0)))  # type: ignore[operator, union-attr]
    model.deviation.copy_(torch.tensor(rows.std(0) + 1e-6))  # type: ignore[operator, union-attr]
    inputs, targets = torch.tensor(rows, dtype=torch.float32), torch.tensor(labels)
    decay = 0.0 if kind == "overfitted" else 1e-2
    optimiser = torch.optim.AdamW(model.parameters(), 0.01, weight_decay=decay)
    loss = nn.CrossEntropyLoss(label_smoothing=0.2 if kind == "smoothed" else 0.0)
    for _ in range(STEPS.get(kind, 150)):
        optimiser.zero_grad()
        loss(model(inputs), targets).backward()
        optimiser.step()
    return model.eval()


@dataclass
class Site:
    """A model in a folder, with its reference."""

    folder: Path
    model: nn.Module
    before: float
    keys: dict[str, Any]

    def config(self, data: str) -> Any:
        path = self.folder / f"{Path(data).stem}.json"
        path.write_text(json.dumps({**self.keys, "eval": {"path": data}}))
        return load_config(path)

    def accuracy(self, rows: Rows, labels: Labels) -> float:
        with torch.no_grad():
            said = self.model(torch.tensor(rows, dtype=torch.float32)).argmax(1).numpy()
        return float((said == labels).mean())

    def monitored(self, data: str, rows: Rows, labels: Labels | None) -> dict[str, Any]:
        write(self.folder / data, rows, labels)
        found: dict[str, Any] = monitor_config(self.config(data)).data
        return found


def opened(folder: Path, kind: str, training: tuple[Rows, Labels], reference: tuple[Rows, Labels], seed: int) -> Site:
    """Trains, and profiles the reference."""
    model = trained(kind, *training, seed)
    width, classes = training[0].shape[1], int(training[1].max()) + 1
    build = f"_build = build_model\n\n\ndef build_model():\n    return _build({kind!r}, {width}, {classes})\n"
    (folder / "model.py").write_text(f"{MODELS}\n\n{build}")
    torch.save(model.state_dict(), folder / "weights.pt")
    write(folder / "train.csv", *training)
    write(folder / "reference.csv", *reference)
    keys = {
        "task_name": "table",
        "task_type": "tabular_classification",
        "num_features": width,
        "num_classes": classes,
        "model_file": "model.py",
        "weights": "weights.pt",
        "train": {"path": "train.csv"},
        "reference_profile_id": "reference",
        "tier": "5",
    }
    site = Site(folder, model, 0.0, keys)
    site.before = site.accuracy(*reference)
    profile_config(site.config("reference.csv"), folder / "experiments.db", name="reference")
    return site


def of_model(job: tuple[str, str, int, tuple[str, ...], int, int]) -> list[Outcome]:
    """All windows of one table, model and seed."""
    name, kind, seed, shifts, clean_windows, m = job
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    rows, labels = table(name)
    random = np.random.default_rng([seed, TABLES.index(name), KINDS.index(kind)])
    order = random.permutation(len(rows))
    half, rest = order[: len(order) // 2], order[len(order) // 2 :]
    centre, spread = rows[half].mean(0), rows[half].std(0) + 1e-6
    training = (rows[half] - centre) / spread, labels[half]
    population = Population((rows[rest] - centre) / spread, labels[rest], random)
    found = []
    with tempfile.TemporaryDirectory() as place, contextlib.redirect_stdout(io.StringIO()):
        site = opened(Path(place), kind, training, population.drawn(m), seed)
        for shift in [*["clean"] * clean_windows, *shifts]:
            n = 1000 if shift == "clean" else int(random.choice([500, 1000]))
            window = SHIFTS[shift](population, n)
            unlabelled = site.monitored("window.csv", window[0], None)
            labelled = site.monitored("labelled.csv", *window)["status"] if shift == "clean" else None
            harm = unlabelled["harm"] or {}
            low, high = harm.get("interval", (None, None))
            found.append(
                Outcome(
                    name,
                    kind,
                    shift,
                    n,
                    site.before,
                    site.accuracy(*window),
                    harm.get("accuracy"),
                    low,
                    high,
                    unlabelled["checks"]["harm"]["status"],
                    unlabelled["status"],
                    labelled,
                )
            )
    return found


def jobs(options: argparse.Namespace) -> Iterator[tuple[str, str, int, tuple[str, ...], int, int]]:
    shifts = () if options.clean_only else (*SIMULATED, *NOT_SIMULATED)
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for name in options.tables.split(","):
            for kind in KINDS:
                yield name, kind, seed, shifts, options.clean, options.reference


def share(of: list[bool]) -> float:
    return float(np.mean(of)) if of else float("nan")


def figures(found: list[Outcome]) -> dict[str, float]:
    """The figures of some windows."""
    hurt = [one for one in found if one.before - one.now > HARMFUL]
    fine = [one for one in found if one.before - one.now < MARGIN]
    told = [one for one in found if one.estimate is not None and np.isfinite(one.now)]
    return {
        "windows": len(found),
        "harmful": len(hurt),
        "wrong all-clear of harm": share([one.harm == "ok" for one in hurt]),
        "wrong all-clear of tier 5": share([one.status == "ok" for one in hurt]),
        "harm fails of harmful": share([one.harm == "fail" for one in hurt]),
        "false harm": share([one.harm == "fail" for one in fine]),
        "mean absolute error": float(np.mean([abs(one.estimate - one.now) for one in told])) if told else float("nan"),  # type: ignore[operator]
        "coverage": share([one.low <= one.now <= one.high for one in told]),  # type: ignore[operator]
        "coverage of harmful": share(
            [one.low <= one.now <= one.high for one in hurt if one.low is not None and one.high is not None]
        ),
        "width": float(np.mean([one.high - one.low for one in told])) if told else float("nan"),  # type: ignore[operator]
    }


def report(found: list[Outcome]) -> bool:
    untouched = [one for one in found if one.shift == "clean"]
    shifted = [one for one in found if one.shift != "clean"]
    without, with_labels = share([one.status == "ok" for one in untouched]), share([one.labelled == "ok" for one in untouched])
    print(
        f"clean windows of 1,000 rows, all of tier 5 ok: {without:.1%} without labels, {with_labels:.1%} with, of {len(untouched)}"
    )
    parts: dict[str, list[Outcome]] = defaultdict(list)
    parts["clean"] = untouched
    if shifted:
        parts["all shifts"] = shifted
        parts["simulated kinds"] = [one for one in shifted if one.shift in SIMULATED]
        parts["other kinds *"] = [one for one in shifted if one.shift in NOT_SIMULATED]
    for key in ("shift", "table", "model"):
        for one in shifted:
            parts[getattr(one, key)].append(one)
    names = list(figures(untouched))
    print(f"| windows | {' | '.join(names)} |\n|---|{'--:|' * len(names)}")
    for part, members in parts.items():
        cells = [
            f"{value:.0f}" if name in ("windows", "harmful") else f"{100 * value:.1f}" for name, value in figures(members).items()
        ]
        print(f"| {part} | {' | '.join(cells)} |")
    held = without >= BOUNDS["clean ok"] and with_labels >= BOUNDS["clean ok"]
    if shifted:
        total, other = figures(shifted), figures(parts["other kinds *"])
        held &= total["wrong all-clear of harm"] <= BOUNDS["wrong all-clear"] and total["false harm"] <= BOUNDS["false harm"]
        held &= total["mean absolute error"] <= BOUNDS["mean absolute error"] and other["coverage"] >= BOUNDS["coverage"]
    return held


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--tables", default=",".join(TABLES))
    parser.add_argument("--clean", type=int, default=4, help="clean windows a model")
    parser.add_argument("--reference", type=int, default=1000, help="rows of the reference")
    parser.add_argument("--clean-only", action="store_true")
    parser.add_argument("--quick", action="store_true", help="one seed")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, help="every window as a line of JSON")
    options = parser.parse_args()
    if options.quick:
        options.seeds = 1
    started, found = time.perf_counter(), []
    with Pool(options.processes) as pool:
        for outcomes in pool.imap_unordered(of_model, list(jobs(options))):
            found += outcomes
            if options.out:
                with options.out.open("a") as file:
                    file.writelines(json.dumps(asdict(one)) + "\n" for one in outcomes)
    held = report(found)
    print(f"{time.perf_counter() - started:.0f} s; held: {held}")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
