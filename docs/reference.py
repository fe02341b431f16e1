"""Writes the parts of the pages that are read off the code: config keys, properties, commands, public names.

``python docs/reference.py`` rewrites them in place, between ``<!-- begin: NAME -->`` and ``<!-- end -->``. A test fails while a page and the
code say different things, so that neither a key nor a public name changes unnoticed.
"""

from __future__ import annotations

import argparse
import dataclasses
import enum
import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from harness import cli, config
from harness.catalogue import CATALOGUE
from harness.cli.doctor import DISTRIBUTION
from harness.data.readers import READERS, kinds
from harness.formats import formats
from harness.tasks import keys

DOCS = Path(__file__).parent
PAGES = ("configuration.md", "cli.md", "api.md", "properties.md", "exporting.md", "data.md")

_PART = re.compile(r"(<!-- begin: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)

GROUPS: dict[str, type[BaseModel]] = {
    "task": config.TaskKeys,
    "signature": keys.SignatureKeys,
    "input": keys.InputKeys,
    "values": keys.ValuesKeys,
    "output": keys.OutputKeys,
    "axis": keys.AxisKeys,
    "loss": keys.LossKeys,
    "model": config.ModelKeys,
    "run": config.RunKeys,
    "training": config.TrainingConfig,
    "data": config.DataKeys,
    "rows": config.EvalConfig,
    "export": config.ExportConfig,
    "monitoring": config.MonitoringKeys,
    "floors": config.DriftFloors,
    "logging": config.LoggingKeys,
}
"""The groups of config keys."""

MEANINGS = {
    "epochs": "Passes over the training data.",
    "batch_size": "Rows of a batch.",
    "learning_rate": "Peak learning rate of AdamW.",
    "weight_decay": "Weight decay of AdamW.",
    "warmup_ratio": "Share of the steps in which the rate rises to its peak.",
    "max_grad_norm": "Norm that gradients are clipped to; 0 for none.",
    "strategy": "How processes share the work.",
    "devices": "How many devices, or which.",
    "num_nodes": "Machines.",
    "precision": "Precision of the computation, in Lightning's words.",
    "use_amp": "Mixed precision, in whichever kind the device has.",
    "accumulate_grad_batches": "Batches whose gradients make up one step.",
    "resume_from_checkpoint": 'The checkpoint to resume from; "last" for the last one.',
    "checkpoint_dir": "Where checkpoints go.",
    "checkpoint_every_n_steps": "A checkpoint every so many steps, besides one an epoch.",
    "early_stopping_patience": "Epochs without improvement before the training ends.",
    "export_bundle": "Whether the trained model is exported as a bundle.",
    "export_formats": "Formats of that bundle.",
    "deterministic": "Deterministic algorithms only.",
    "compile_mode": "torch.compile in this mode.",
    "use_gpu": "Whether a GPU is used; one is where there is one, by default.",
    "dataset_id": "A built-in set.",
    "path": f"A file or folder: {kinds()}.",
    "split": "The part of a built-in set, or of a file that has a column for it.",
    "max_eval_examples": "Rows at most.",
    "num_workers": "Processes that load batches.",
    "train": "The rows to train on; keys below.",
    "eval": "The rows to judge by; keys below.",
    "formats": "Formats to export to.",
    "quantization": "8-bit ONNX besides.",
    "export_dir": "Where the files go.",
    "opset_version": "ONNX opset.",
    "trust": "sha256 of foreign files that may be loaded although loading can run code.",
    "log_to_db": "Whether a training is remembered in the database.",
    "run_name": "The run's name there.",
}
"""What a key means, where its field in ``harness/config.py`` does not say so itself."""

PUBLIC = {
    "harness.config": ("load_config", "json_schema", "SuiteConfig", "TrainingConfig", "EvalConfig", "ExportConfig"),
    "harness.tasks": ("TaskType", "TaskSpec"),
    "harness.adapters": ("make_adapter", "Adapter", "CausalLMAdapter", "RegressionAdapter", "CallPlan"),
    "harness.batches": ("make_batch", "Sizes"),
    "harness.evidence": ("Status", "Evidence"),
    "harness.errors": (
        "UserError",
        "ConfigError",
        "ModelSourceError",
        "FactoryError",
        "WeightsError",
        "ForwardError",
        "OutputError",
        "DataError",
        "MissingPackageError",
        "TimeBudgetError",
    ),
    "harness.scaffold": ("scaffold",),
    "harness.training.run": ("run_training", "build_configs_for_mode"),
    "harness.experiments": ("ExperimentDB", "log_profile_to_db"),
    "harness.sweeps": ("run_grid_sweep",),
    "harness.repro": ("create_repro_bundle", "repro"),
    "harness.export.export_model": ("export_model", "run_tier4_export_validation"),
    "harness.export.health": ("ExportHealthChecker",),
    "harness.export.formats.onnx": ("ONNXExporter",),
    "harness.models.loading": ("load_gist_model",),
    "harness.export.bundle": ("create_export_bundle",),
    "harness.health": ("CheckResult", "ExportHealthReport"),
    "harness.monitoring.run": ("run_tier5_monitoring",),
    "harness.monitoring.profiles": ("compute_dataset_profile", "profile_columns"),
    "harness.monitoring.drift": ("compare_profiles",),
    "pytest_modeltiers.callbacks": ("lightning_callback", "trainer_callback", "Watch"),
    "pytest_modeltiers.checks": ("model_check", "ModelCheck"),
    "pytest_modeltiers.hooks": ("pytest_modeltiers_checks",),
    "pytest_modeltiers.live": ("judge", "judge_model", "task_of_example", "Judgement"),
    "pytest_modeltiers.suite": ("tests_for",),
}
"""What users may rely on, by module; whatever is not here may change in any version."""


def rendered(page: str) -> str:
    """A page's text with its generated parts as the code has them now."""
    return _PART.sub(lambda m: f"{m[1]}{PARTS[m[2]]()}\n{m[3]}", page)


def keys_of(group: str) -> str:
    """The table of a group's config keys."""
    model = GROUPS[group]
    schema = model.model_json_schema()
    rows = ["| key | value | default | |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        key = field.alias or name
        entry = schema["properties"][key]
        meaning = (entry.get("description") or MEANINGS[name]).replace("|", "\\|")
        default = "" if field.is_required() else _default(field.get_default(call_default_factory=True))
        rows.append(f"| `{key}` | {_values(entry, schema.get('$defs', {}))} | {default} | {meaning} |")
    return "\n".join(rows)


def properties() -> str:
    """The table of properties, each with its tier and a link to its section."""
    rows = [f"| [`{name}`](#{name}) | {entry.tier} | {entry.statement} |" for name, entry in CATALOGUE.items()]
    return "\n".join(["| property | tier | what holds of a sound model |", "|---|---|---|", *rows])


def data_files() -> str:
    """The table of data files that can be read."""
    rows = ["| kind | suffixes | what is in it | package |", "|---|---|---|---|"]
    for reader in READERS:
        suffixes = ", ".join(f"`{suffix}`" for suffix in reader.suffixes)
        rows.append(f"| {reader.kind} | {suffixes} | {reader.layout} | {reader.package} |")
    return "\n".join(rows)


def exporters() -> str:
    """The table of formats, each with what it says of itself."""
    rows = ["| format | file | holds | needs | by default | |", "|---|---|---|---|---|---|"]
    for name, format in formats().items():
        needs = f"`{DISTRIBUTION}[{format.extra}]`" if format.extra else ""
        about = f"by `quantization`, from `{format.quantised_from}`" if format.quantised_from else ""
        about = about or ("loading a file can run code" if format.holds_code else "")
        rows.append(
            f"| `{name}` | `{format.filename}` | {format.kind} | {needs} | {'yes' if format.by_default else ''} | {about} |"
        )
    return "\n".join(rows)


def commands() -> str:
    """Every command with its arguments."""
    return "\n".join(_command(name, parser, about) for name, parser, about in _subcommands(cli._parser()))


def public_names() -> str:
    """Every public name with its signature."""
    parts = []
    for module, names in PUBLIC.items():
        found = importlib.import_module(module)
        parts.append(f"## {module}\n\n" + "\n".join(_public(name, getattr(found, name)) for name in names) + "\n")
    return "\n".join(parts)


PARTS: dict[str, Callable[[], str]] = {
    **{group: (lambda group=group: keys_of(group)) for group in GROUPS},  # type: ignore[misc]
    "properties": properties,
    "formats": exporters,
    "commands": commands,
    "data_files": data_files,
    "names": public_names,
}


def _default(value: Any) -> str:
    if value is None:
        return ""
    text = {True: "true", False: "false"}.get(value) if isinstance(value, bool) else None
    return f"`{text or (value if isinstance(value, (int, float)) else str(value).replace(chr(39), chr(34)) or chr(34) * 2)}`"


def _values(entry: dict[str, Any], definitions: dict[str, Any]) -> str:
    """What a value may be, from its schema."""
    if "$ref" in entry:
        return "a table"
    if "anyOf" in entry:
        kinds = [_values(kind, definitions) for kind in entry["anyOf"] if kind.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in entry:
        return ", ".join(f"`{value}`" for value in entry["enum"])
    if "const" in entry:
        return f"`{entry['const']}`"
    kind = entry.get("type", "")
    if kind == "array":
        return f"list of {_values(entry.get('items', {}), definitions)}"
    if kind == "object":
        inside = entry.get("additionalProperties")
        of = _values(inside, definitions) if isinstance(inside, dict) else ""
        return f"table of {of}" if of else "a table"
    word = {"string": "text", "integer": "integer", "number": "number", "boolean": "true or false"}.get(kind, kind)
    limits = {"minimum": "from {}", "exclusiveMinimum": "above {}", "maximum": "to {}"}
    return " ".join([word, *(text.format(f"{entry[key]:g}") for key, text in limits.items() if key in entry)])


def _subcommands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser, str]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            about = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, sub in action.choices.items():
                yield f"{parser.prog.split(' [')[0].split(' --')[0]} {name}", sub, about.get(name, "")


def _command(name: str, parser: argparse.ArgumentParser, about: str) -> str:
    lines = [f"## {name}\n", f"{about[:1].upper()}{about[1:]}.\n"]
    arguments = [a for a in parser._actions if not isinstance(a, (argparse._HelpAction, argparse._SubParsersAction))]
    if arguments:
        lines += ["| argument | |", "|---|---|", *(_argument(a) for a in arguments), ""]
    lines += [_command(sub, inner, text) for sub, inner, text in _subcommands(parser)]
    return "\n".join(lines)


def _argument(action: argparse.Action) -> str:
    value = action.metavar or ("|".join(map(str, action.choices)) if action.choices else action.dest.upper())
    shown = str(value if isinstance(value, str) else " ".join(value)).replace("|", "\\|")
    optional = f"[{shown}]" if action.nargs == "?" else shown
    names = ", ".join(action.option_strings)
    text = shown if not names else (names if action.nargs == 0 else f"{names} {optional}")
    return f"| `{text}` | {(action.help or '').replace('|', chr(92) + '|')}{', required' if action.required and names else ''} |"


def _public(name: str, target: Any) -> str:
    about = (inspect.getdoc(target) or "").split("\n\n")[0].replace("\n", " ")
    if not inspect.isclass(target):
        return f"- `{name}{_signature(target)}`: {about}"
    if issubclass(target, enum.Enum):
        return f"- `{name}`: {about} Members: {', '.join(f'`{member.name}`' for member in target)}"
    if issubclass(target, BaseModel):
        return f"- `{name}`: {about} Its fields are on the page [Configuration](configuration.md)."
    if issubclass(target, Exception):
        return f"- `{name}({', '.join(base.__name__ for base in target.__bases__)})`: {about}"
    attributes = [member for cls in reversed(target.__mro__[:-1]) for member in vars(cls) if not member.startswith("_")]
    fields = {field.name for field in dataclasses.fields(target)} if dataclasses.is_dataclass(target) else set()
    members = [f"`{member}`" for member in dict.fromkeys(attributes) if member not in fields]
    return f"- `{name}{_signature(target)}`: {about}" + (f" Members: {', '.join(members)}" if members else "")


def _signature(target: Any) -> str:
    signature = inspect.signature(target)
    shown: list[str] = []
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in shown and not any(s.startswith("*") for s in shown):
            shown.append("*")
        star = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        kind = "" if parameter.annotation is parameter.empty else f": {parameter.annotation}"
        plain = isinstance(parameter.default, (int, float, str, tuple, list, type(None)))
        default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}" if plain else " = …"
        shown.append(f"{star}{parameter.name}{kind}{default}")
    returns = signature.return_annotation
    return f"({', '.join(shown)})" + (f" -> {returns}" if isinstance(returns, str) and returns != "None" else "")


if __name__ == "__main__":
    for page in PAGES:
        text = (DOCS / page).read_text(encoding="utf-8")
        (DOCS / page).write_text(rendered(text), encoding="utf-8")
