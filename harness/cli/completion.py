"""``modeltiers completion``: commands, options and files after the tab key, for bash, zsh and fish."""

from __future__ import annotations

import argparse
import re
import shlex
from typing import Any

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
    case "${{COMP_WORDS[1]}}" in
{cases}
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
complete -o default -o bashdefault -F _modeltiers modeltiers
"""
"""Files are completed where no word fits."""


def add_completion(commands: Any) -> None:
    """Adds ``completion``."""
    lines = "; ".join(f"{shell}: {line}" for shell, line in _SHELLS.items())
    completion = commands.add_parser("completion", help="print what completes commands and options in a shell")
    completion.add_argument("shell", choices=_SHELLS, help=f"put one of these lines into the shell's start file ({lines})")
    completion.set_defaults(run=lambda arguments: _completion(arguments, commands))


def _completion(arguments: argparse.Namespace, commands: Any) -> int:
    known = {name: options_of(parser) for name, parser in commands.choices.items()}
    print(_fish(known) if arguments.shell == "fish" else _bash(known, is_zsh=arguments.shell == "zsh"), end="")
    return 0


def options_of(parser: argparse.ArgumentParser) -> list[str]:
    """The long options of a command."""
    return list(dict.fromkeys(re.findall(r"(?<![\w-])--[a-z][\w-]*", parser.format_usage())))


def _bash(commands: dict[str, list[str]], is_zsh: bool) -> str:
    cases = "\n".join(f"      {name}) words={shlex.quote(' '.join(options))} ;;" for name, options in commands.items())
    script = _BASH.format(commands=shlex.quote(" ".join(commands)), cases=cases)
    return f"autoload -U +X bashcompinit && bashcompinit\n{script}" if is_zsh else script


def _fish(commands: dict[str, list[str]]) -> str:
    lines = [f"complete -c modeltiers -n __fish_use_subcommand -a {name}" for name in commands]
    lines += [
        f"complete -c modeltiers -n '__fish_seen_subcommand_from {name}' -l {option.removeprefix('--')}"
        for name, options in commands.items()
        for option in options
    ]
    return "\n".join(lines) + "\n"
