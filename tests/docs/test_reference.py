"""What the pages say of config keys, commands and public names is what the code has."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from fences import DOCS

from harness.config import SuiteConfig


def load_reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_reference", DOCS / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


reference = load_reference()


@pytest.mark.parametrize("page", reference.PAGES)
def test_the_page_is_as_the_code(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    assert reference.rendered(text) == text, (
        f"docs/{page} and the code differ. If the change is meant, a public one also belongs into CHANGELOG.md: python docs/reference.py"
    )


def test_every_generated_part_has_a_place() -> None:
    pages = "".join((DOCS / page).read_text(encoding="utf-8") for page in reference.PAGES)
    assert all(pages.count(f"<!-- begin: {part} -->") == 1 for part in reference.PARTS)


def test_every_key_of_the_config_is_in_a_group() -> None:
    grouped = {name for group in reference.GROUPS.values() for name in group.model_fields}
    assert set(SuiteConfig.model_fields) - {"export"} <= grouped


def test_every_public_name_says_what_it_is() -> None:
    for line in reference.public_names().splitlines():
        if line.startswith("- "):
            assert len(line.split("`: ", 1)[1]) > 5, line


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda path: path.stem)
def test_every_page_is_in_the_navigation(page: Path) -> None:
    assert f": {page.name}\n" in (DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8")
