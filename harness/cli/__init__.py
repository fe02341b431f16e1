"""The command line: ``modeltiers``, which is also ``python -m harness``. A file for commands that belong together.

Exit status: 0 ok or warn, 1 fail, 2 the user's input is wrong.
"""

from __future__ import annotations

import argparse
import atexit
import gc
import json
import os
import re
import shlex
import sys
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn, TextIO

from harness import __version__
from harness.cli.compare import add_compare
from harness.cli.deploy import add_bundle, add_export, add_monitor, add_power, add_profile
from harness.cli.doctor import add_doctor, add_plan
from harness.cli.init import add_explain, add_gist, add_init, add_schema
from harness.cli.record import add_record
from harness.cli.runs import add_repro, add_runs, add_sweep, add_train
from harness.cli.tiers import add_check, add_tiers
from harness.config_file import with_place
from harness.errors import ConfigError, MemoryFullError, UserError, did_you_mean
from harness.wording import write_plain_signs

_SHELLS = {
    "bash": 'eval "$(modeltiers completion bash)"',
    "zsh": 'eval "$(modeltiers completion zsh)"',
    "fish": "modeltiers completion fish | source",
}
"""The shells, each with the line that a user puts into its start file."""

_BASH = """\
_modeltiers() {{
  local words
  if [ "$COMP_CWORD" -eq 1 ]; then
    words={commands}
  else
    case "${{COMP_WORDS[*]:1:$((COMP_CWORD - 1))}} " in
{cases}
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
complete -o default -o bashdefault -F _modeltiers modeltiers
"""
"""Files are completed where no word fits."""

_ZSH = """\
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
autoload -Uz +X bashcompinit && bashcompinit
"""
"""bash's way of completing rests on zsh's own, which not every start file loads."""


def add_completion(commands: Any) -> None:
    """Adds ``completion``."""
    lines = "; ".join(f"{shell}: {line}" for shell, line in _SHELLS.items())
    completion = commands.add_parser("completion", help="print what completes commands and options in a shell")
    completion.add_argument("shell", choices=_SHELLS, help=f"put one of these lines into the shell's start file ({lines})")
    completion.set_defaults(run=lambda arguments: _completion(arguments, commands))


def _completion(arguments: argparse.Namespace, commands: Any) -> int:
    known = _words(commands.choices)
    print(_fish(known) if arguments.shell == "fish" else _bash(known, is_zsh=arguments.shell == "zsh"), end="")
    return 0


def _words(commands: Mapping[str, _Parser]) -> dict[tuple[str, ...], list[str]]:
    """What may follow each command, by its words: its options and its own commands; those of commands of commands first."""
    known: dict[tuple[str, ...], list[str]] = {}
    for name, parser in commands.items():
        known |= {(name, *further): words for further, words in _words(parser.commands).items()}
        known[(name,)] = [*parser.commands, *options_of(parser)]
    return known


def options_of(parser: argparse.ArgumentParser) -> list[str]:
    """The long options of a command."""
    return list(dict.fromkeys(re.findall(r"(?<![\w-])--[a-z][\w-]*", parser.format_usage())))


def _bash(commands: Mapping[tuple[str, ...], list[str]], is_zsh: bool) -> str:
    cases = "\n".join(
        f"      {shlex.quote(' '.join(names))}\\ *) words={shlex.quote(' '.join(words))} ;;" for names, words in commands.items()
    )
    first = " ".join(names[0] for names in commands if len(names) == 1)
    script = _BASH.format(commands=shlex.quote(first), cases=cases)
    return f"{_ZSH}{script}" if is_zsh else script


def _fish(commands: Mapping[tuple[str, ...], list[str]]) -> str:
    lines = [f"complete -c modeltiers -n __fish_use_subcommand -a {names[0]}" for names in commands if len(names) == 1]
    lines += [
        f"complete -c modeltiers -n '__fish_seen_subcommand_from {names[-1]}' "
        + (f"-l {word.removeprefix('--')}" if word.startswith("--") else f"-a {word}")
        for names, words in commands.items()
        for word in words
    ]
    return "\n".join(lines) + "\n"


_COMMANDS = (
    add_check,
    add_tiers,
    add_compare,
    add_train,
    add_sweep,
    add_export,
    add_bundle,
    add_profile,
    add_monitor,
    add_power,
    add_runs,
    add_repro,
    add_init,
    add_record,
    add_explain,
    add_gist,
    add_schema,
    add_plan,
    add_doctor,
    add_completion,
)

_FIRST_STEPS = """\
pytest-modeltiers: tests for PyTorch models.

  modeltiers check model.py                      judge a model now, without a config
  modeltiers init model.py                       write a config for it, to keep and to edit
  modeltiers record train.py --epochs 1          or write it from a command of yours that works
  pytest --model-config modeltiers.toml          run that config
  pytest --model-config modeltiers.toml --model-report report
                                                 and write a page about it

Commands:
"""
"""What ``modeltiers`` alone prints, above the commands."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status."""
    with warnings.catch_warnings():
        warnings.showwarning = _say
        write_plain_signs()
        given = sys.argv[1:] if argv is None else list(argv)
        if argv is None:
            atexit.register(gc.freeze)  # what ends with the process need not be looked through for garbage
        if not given:
            print(_first_steps())
            return 0
        return _run(_parser(given[0]).parse_args(given))


def _run(arguments: argparse.Namespace) -> int:
    as_json = getattr(arguments, "json", False)
    try:
        status = int(arguments.run(arguments))
        sys.stdout.flush()
        return status
    except UserError as error:
        config = getattr(arguments, "config", None)
        print(f"modeltiers: {with_place(config, str(error)) if isinstance(config, Path) else error}", file=sys.stderr)
        if as_json:
            mistakes = {"mistakes": [asdict(mistake) for mistake in error.mistakes]} if isinstance(error, ConfigError) else {}
            print(json.dumps({"status": "error", "code": error.code, "error": str(error), **mistakes}))
        return 2
    except MemoryFullError as error:
        print(f"modeltiers: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("modeltiers: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, `head` for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with a command line, and what is near.

    Attributes:
        commands: The commands by name, of the parser that has some.
        command: The one that is given.
        given: Its arguments.
    """

    commands: Mapping[str, _Parser] = MappingProxyType({})
    command: str = ""
    given: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None, **more: Any) -> Any:
        """As argparse does, and notes what was given, for what is said of a mistake."""
        self.given = list(args or ())
        return super().parse_known_args(args, namespace, **more)

    def error(self, message: str) -> NoReturn:
        """Ends with status 2."""
        unknown = re.search(r"unrecognized arguments: (--[\w-]+)", message)
        if message.startswith("argument COMMAND: invalid choice"):
            near = f" Did you mean `modeltiers check {self.command}`?" if Path(self.command).exists() else ""
            near = near or did_you_mean(self.command, self.commands) or " `modeltiers` lists what there is"
            message = f"no command {self.command!r}.{near}"
        elif unknown is not None:
            near = did_you_mean(unknown[1], options_of(self.commands.get(self.command, self)))
            message = f"no option {unknown[1]}.{near or f' `modeltiers {self.command} --help` lists them'}"
        elif message.endswith("required: --config"):
            file = next((word for word in self.given if Path(word).is_file()), "modeltiers.toml")
            message = f"which config? `{self.prog} --config {file}`"
        else:
            message = f"{message} (`{self.prog} --help` says what it takes)"
        self.exit(2, f"{self.prog}: {message}\n")


def _parser(command: str = "") -> argparse.ArgumentParser:
    parser = _Parser(prog="modeltiers", description="Model validation as a test suite.")
    parser.add_argument("--version", action="version", version=f"modeltiers {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for add_to in _COMMANDS:
        add_to(commands)
    parser.commands, parser.command = commands.choices, command
    return parser


def _first_steps() -> str:
    """What one can do: the first steps, and every command in a line."""
    listed = _parser().format_help().partition("COMMAND\n")[2].partition("\n\n")[0]
    return f"{_FIRST_STEPS}{textwrap.indent(textwrap.dedent(listed), '  ')}\n\n`modeltiers COMMAND --help` says what a command takes."


def _say(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """A warning for people: the sentence, without the line of code that raised it."""
    if issubclass(category, UserWarning):
        print(f"modeltiers: {message}", file=sys.stderr)
