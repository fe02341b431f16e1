"""How far a training is: a bar for a terminal, a line an epoch for a log."""

from __future__ import annotations

import atexit
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, TextIO

from harness.training import Epoch, Listener, Plan, Step
from harness.wording import counted

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

INTERVAL = 0.1
"""Seconds between two drawings of the bar, at least."""

_SMOOTHING = 0.95
_PATIENCE = 20
"""A drawing is followed by a pause this many times as long, so that a slow terminal takes a twentieth of the time at most."""

_LEAST_BAR = 8
_MOST_BAR = 40


class Progress(Listener):
    """Shows on stderr how far a training is.

    On a terminal a bar with the loss, the speed and the time that remains; elsewhere only a line at the start and one for each epoch,
    which the terminal gets as well, above the bar. A stderr that was closed silences the progress; it never stops the training.

    Args:
        quiet: Show nothing at all.
    """

    _metrics: Mapping[str, float]
    _evaluated: tuple[int, int] | None
    _first: tuple[int, float] | None

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._bar: FootLine | None = None
        self._due = math.inf
        self._begin(Plan("", 0, 0))

    def on_start(self, plan: Plan) -> None:
        """Says what is about to happen, and shows the bar where there is a terminal."""
        self.on_end()
        self._begin(plan)
        if self._quiet:
            return
        self._safely(self._open)
        self._say(_start_line(plan))
        self._refresh()

    def on_step(self, step: Step) -> None:
        """Takes note; draws when the last drawing is long enough ago."""
        self._step, self._epoch, self._evaluated = step.step, step.epoch, None
        self._examples += step.examples
        self._seconds += step.seconds
        self._took.add(step.seconds)
        self._loss.add(step.loss)
        now = monotonic()
        if self._first is None:
            self._first = (step.step, now)
        if now >= self._due:
            self._refresh()

    def on_epoch(self, epoch: Epoch) -> None:
        """Says what the epoch came to."""
        self._metrics, self._evaluated = {**self._metrics, **epoch.metrics}, None
        self._say(self._epoch_line(epoch))
        self._examples, self._seconds = 0, 0.0
        self._refresh()

    def evaluating(self, done: int, total: int) -> None:
        """Batches of an evaluation that were done, and how many there are; for ``evaluate(on_batch=…)``."""
        self._evaluated = (done, total)
        if monotonic() >= self._due:
            self._refresh()

    def on_end(self) -> None:
        """Takes the bar away and gives the terminal back as it was; may be called at any time, and twice."""
        bar, self._bar, self._due = self._bar, None, math.inf
        if bar is not None:
            atexit.unregister(self.on_end)
            with suppress(OSError, ValueError):
                bar.close()

    def _begin(self, plan: Plan) -> None:
        self._plan = plan
        self._step, self._epoch = plan.start, 0
        self._loss, self._took = _Smooth(), _Smooth()
        self._examples, self._seconds = 0, 0.0
        self._metrics, self._evaluated, self._first = {}, None, None

    def _open(self) -> None:
        if is_terminal(sys.stderr):
            self._bar = FootLine(sys.stderr)
            atexit.register(self.on_end)

    def _say(self, line: str) -> None:
        if self._quiet:
            return
        bar = self._bar
        self._safely(lambda: bar.say(line) if bar else print(line, file=sys.stderr, flush=True))

    def _refresh(self) -> None:
        bar = self._bar
        if bar is None:
            return
        begin = monotonic()
        share = self._step / self._plan.steps if self._plan.steps else 0.0
        self._safely(lambda: bar.show(_line(share, self._pieces(), bar.width)))
        if self._bar is not None:
            self._due = monotonic() + max(INTERVAL, _PATIENCE * (monotonic() - begin))

    def _safely(self, write: Callable[[], None]) -> None:
        try:
            write()
        except (OSError, ValueError):  # a closed file is the one or the other
            self._quiet = True
            self.on_end()

    def _pieces(self) -> list[tuple[int, str]]:
        """What stands beside the bar, from left to right, each with its rank: a narrow terminal leaves out the highest ranks."""
        plan, evaluated = self._plan, self._evaluated
        pieces = [(0, f"epoch {min(self._epoch + 1, plan.epochs)}/{plan.epochs}"), (1, f"{self._step}/{plan.steps}")]
        if evaluated is not None:
            pieces.append((2, f"evaluating {evaluated[0]}/{evaluated[1]}"))
        if self._loss.value is not None:
            pieces.append((3, f"loss {_figure(self._loss.value)}"))
        pieces += [(5, f"{name} {_figure(self._metrics[name])}") for name in self._shown(self._metrics)]
        if self._took.value is not None:
            pieces.append((6, _speed(self._took.value)))
        left = self._remaining()
        return pieces if left is None else [*pieces, (4, f"{_clock(left)} left")]

    def _remaining(self) -> float | None:
        """Seconds at the pace so far, evaluations included; the first step, which warms up, does not count."""
        if self._first is None or self._step <= self._first[0]:
            return None
        pace = (monotonic() - self._first[1]) / (self._step - self._first[0])
        return max(pace * (self._plan.steps - self._step), 0.0)

    def _shown(self, metrics: Mapping[str, float]) -> list[str]:
        return [name for name in dict.fromkeys(("val_loss", self._plan.monitor)) if name in metrics]

    def _epoch_line(self, epoch: Epoch) -> str:
        if epoch.epoch < 0:
            parts = ["before training"]
        else:
            parts = [f"epoch {epoch.epoch + 1}/{self._plan.epochs}", f"step {epoch.step}/{self._plan.steps}"]
        if self._loss.value is not None:
            parts.append(f"loss {_figure(self._loss.value)}")
        parts += [f"{name} {_figure(epoch.metrics[name])}" for name in self._shown(epoch.metrics)]
        if self._seconds > 0:
            rate = self._examples / self._seconds
            parts.append(f"{rate:,.0f} examples/s" if rate >= 10 else f"{rate:.2g} examples/s")
        return "  ".join(parts)


class _Smooth:
    """An exponential mean without the bias of its start; a value that is not finite shows at once and is forgotten with the next."""

    __slots__ = ("_sum", "_weight", "value")

    def __init__(self) -> None:
        self._sum = self._weight = 0.0
        self.value: float | None = None

    def add(self, value: float) -> None:
        if math.isfinite(value):
            self._sum = _SMOOTHING * self._sum + (1 - _SMOOTHING) * value
            self._weight = _SMOOTHING * self._weight + (1 - _SMOOTHING)
            self.value = self._sum / self._weight
        else:
            self.value = value


class FootLine:
    """One line at the foot of a terminal, drawn by rich when it is told to: no thread, as those and forked loaders don't go together."""

    def __init__(self, file: TextIO) -> None:
        from rich.console import Console
        from rich.live import Live

        class Terminal(Console):
            def on_broken_pipe(self) -> None:
                raise BrokenPipeError  # rich would end the process

        self._console = Terminal(file=file, highlight=False)
        self._live = Live(
            console=self._console,
            auto_refresh=False,
            transient=True,
            # Prints go above the bar; but those of a stdout that was sent to a file belong there.
            redirect_stdout=is_terminal(sys.stdout),
        )
        self._live.start()

    @property
    def width(self) -> int:
        """Columns of the terminal."""
        return self._console.width

    def say(self, line: str) -> None:
        """Prints a line above it."""
        self._console.print(_plain(line), soft_wrap=True)

    def show(self, line: str | Table) -> None:
        """Replaces it."""
        self._live.update(_plain(line) if isinstance(line, str) else line, refresh=True)

    def close(self) -> None:
        """Takes it away."""
        self._live.stop()


def _line(share: float, pieces: Sequence[tuple[int, str]], width: int) -> Table:
    """The first piece, the bar, and as many of the other pieces as fit."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    kept = list(pieces)
    while len(kept) > 1 and _taken(kept) + _LEAST_BAR > width - 1:
        kept.remove(max(kept))
    room = min(_MOST_BAR, width - 1 - _taken(kept))
    cells: list[Text | ProgressBar] = [_plain(text) for _, text in kept]
    if room >= _LEAST_BAR:
        cells.insert(
            1, ProgressBar(total=1.0, completed=min(share, 1.0), width=room, complete_style="cyan", finished_style="green")
        )
    line = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
    for _ in cells:
        line.add_column(no_wrap=True)
    line.add_row(*cells)
    return line


def _taken(pieces: Sequence[tuple[int, str]]) -> int:
    return sum(len(text) + 2 for _, text in pieces)


def _plain(text: str) -> Text:
    from rich.text import Text

    return Text("".join(letter if letter.isprintable() else " " for letter in text), no_wrap=True, overflow="ellipsis")


def is_terminal(file: TextIO | None) -> bool:
    """Whether a file is a terminal on which a line can be replaced."""
    try:
        return file is not None and file.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
    except ValueError:
        return False


def _start_line(plan: Plan) -> str:
    name = "".join(letter if letter.isprintable() else " " for letter in plan.name)
    line = f"training {name}: {counted(plan.epochs, 'epoch')}, {counted(plan.steps, 'step')}"
    return f"{line}, resumed at step {plan.start}" if plan.start else line


def _figure(value: float) -> str:
    return f"{value:.3f}" if value == 0 or 0.01 <= abs(value) < 1e5 else f"{value:.3g}"


def _speed(seconds: float) -> str:
    if seconds <= 0:
        return "– steps/s"
    return f"{1 / seconds:.{0 if seconds < 0.01 else 1}f} steps/s" if seconds < 1 else f"{seconds:.1f} s/step"


def _clock(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}"
