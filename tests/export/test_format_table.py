"""A format that nothing judges would be green: it is refused before it can be asked for."""

from __future__ import annotations

import pytest

from harness import catalogue
from harness.export.formats.table import FORMATS, refuse_unlisted


def test_every_format_has_tests() -> None:
    refuse_unlisted(FORMATS)
    assert set(FORMATS) == set(catalogue.CATALOGUE["exports"].formats)


def test_a_format_without_tests_is_refused() -> None:
    with pytest.raises(RuntimeError, match="the format 'state_dict' has no tests: add it to"):
        refuse_unlisted([*FORMATS, "state_dict"])


def test_a_format_that_cannot_be_asked_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = catalogue.CATALOGUE["exports"]
    listed = catalogue.Property(entry.name, entry.tier, entry.statement, formats=(*entry.formats, "state_dict"))
    monkeypatch.setitem(catalogue.CATALOGUE, "exports", listed)
    with pytest.raises(RuntimeError, match="cannot be asked for: add it to `ExportFormat`"):
        refuse_unlisted(["state_dict"])
