"""``modeltiers record``: a config from a command of the user's own that works."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli.init import Progress, account, try_out

if TYPE_CHECKING:
    from harness.recording import Recording

_STEPS, _SECONDS = 3, 300.0


def add_record(commands: Any) -> None:
    """Adds ``record``."""
    record = commands.add_parser(
        "record",
        help="write a config by running a command of yours that works, such as train.py, until its model was called a few times",
    )
    record.add_argument(
        "--steps",
        type=_number,
        default=_STEPS,
        metavar="N",
        help=f"training steps, or calls without an optimizer, before it is stopped ({_STEPS})",
    )
    record.add_argument("--seconds", type=float, default=_SECONDS, metavar="S", help=f"and the time it has ({_SECONDS:g})")
    record.add_argument(
        "--model",
        default="",
        metavar="CLASS",
        help="the class of the model, where several are called (the largest that is trained)",
    )
    record.add_argument(
        "--weights", action="store_true", help="keep the weights as they are at the end, and name them in the config"
    )
    record.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="where the config and its files go (the folder that the model is imported from)",
    )
    record.add_argument("--force", action="store_true", help="replace what is there")
    record.add_argument(
        "--trust", action="store_true", help="let the model's file start programs and use the network when it is imported"
    )
    record.add_argument("--no-run", action="store_true", help="write the config only")
    record.add_argument("-m", dest="is_module", action="store_true", help="SCRIPT is the name of a module, as for python -m")
    record.add_argument("script", metavar="SCRIPT", help="what is run, as python would run it")
    record.add_argument("rest", nargs=argparse.REMAINDER, metavar="ARGS", help="what it is given")
    record.set_defaults(run=_record)


def _number(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 1, got {text!r}")
    return int(text)


def _record(arguments: argparse.Namespace) -> int:
    from harness.models.attempts import Patience
    from harness.recording import Command, record
    from harness.scaffold.recorded import scaffold_recorded

    command = Command(
        target=arguments.script,
        is_module=arguments.is_module,
        arguments=tuple(arguments.rest),
        steps=arguments.steps,
        seconds=arguments.seconds,
        model=arguments.model,
        weights=arguments.weights,
    )
    target = arguments.output / "modeltiers.toml" if arguments.output is not None else None
    with Progress(sys.stderr) as progress:
        progress.stage(f"running {command.shown} until its model was called a few times")
        seen = record(command, progress.say)
        patience = Patience(say=progress.say, stage=progress.stage)
        _on_path(command.target, command.is_module)
        found = scaffold_recorded(seen, command, target, overwrite=arguments.force, trust=arguments.trust, patience=patience)
    print("\n".join([*_seen(seen), account(found)]))
    return try_out(found.config, arguments.no_run)


def _on_path(target: str, is_module: bool) -> None:
    """Puts the folder on the path from which the command imports."""
    sys.path.insert(0, str(Path.cwd() if is_module else Path(target).resolve().parent))


def _seen(found: Recording) -> list[str]:
    """What the run did, and where."""
    from harness.scaffold.trained_by import said_of_loss

    model, training = found.model, found.training
    assert model is not None
    lines = [
        f"seen: {model.name} made in {model.made_at}, {model.method or 'forward'} called in {model.called_at} ({_times(len(found.calls))} kept)"
    ]
    lines += [
        f"  loss: {each.called} of {each.output or 'the output'} in {each.place}, labels {each.dtype} {list(each.target)}"
        for each in found.losses
    ]
    lines += [f"  {said}"] if (said := said_of_loss(found)) else []
    lines += [f"  optimizer: {training.optimizer} in {training.place}"] if training.optimizer else []
    lines += (
        [
            f"  also called: {', '.join(f'{name} ({place})' for name, place in found.others.items())}; --model CLASS takes one of them"
        ]
        if found.others
        else []
    )
    lines += [f"  the command was not stopped: {found.ended}"] if found.ended else []
    return lines


def _times(number: int) -> str:
    return "1 call" if number == 1 else f"{number} calls"
