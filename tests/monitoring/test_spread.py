"""How far sound windows differ: days that are not alike are no drift, and what is broken is found all the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from harness.cli import main
from harness.errors import ProfileError
from harness.experiments.records import WindowRecord
from harness.monitoring import DriftOptions
from harness.monitoring.drift import compare_profiles
from harness.monitoring.profiles import Profile
from harness.monitoring.profiles.windows import MOST_WINDOWS, ChosenWindows, window_column, window_labels
from harness.monitoring.spread import WindowSpread, first_windows, spread_of_windows, with_spread
from harness.monitoring.statistics import Usual
from harness.monitoring.tables import TableOptions, compare_table, profile_of_table

Table = dict[str, NDArray[Any]]

DAYS, ROWS = 30, 400


def a_day(number: int, rng: np.random.Generator, size: int = ROWS) -> Table:
    """Rows of a day: how late trains are hangs on the day, as does which line runs; what they weigh does not."""
    late = rng.normal(0, 0.4)
    share = np.clip(0.5 + rng.normal(0, 0.08), 0.1, 0.9)
    moments = np.datetime64("2026-01-01") + np.timedelta64(number, "D") + rng.integers(0, 86_400, size).astype("m8[s]")
    delay = rng.normal(late, 1.0, size)
    return {
        "when": moments.astype("M8[us]"),
        "delay": delay,
        "arrival": delay + rng.normal(0, rng.uniform(0.3, 1.2), size),
        "weight": rng.normal(60, 12, size),
        "line": np.where(rng.random(size) < share, "red", "blue").astype(object),
    }


def joined(days: list[Table]) -> Table:
    return {name: np.concatenate([day[name] for day in days]) for name in days[0]}


@pytest.fixture(scope="module")
def history() -> Profile:
    """A month, whose days are found by its column of dates."""
    rng = np.random.default_rng(0)
    return profile_of_table(joined([a_day(number, rng) for number in range(DAYS)]))


def later(count: int, seed: int = 1) -> list[Table]:
    rng = np.random.default_rng(seed)
    return [a_day(DAYS + number, rng) for number in range(count)]


def test_days_that_differ_as_those_of_the_reference_do_are_ok_and_by_chance_alone_they_would_fail(history: Profile) -> None:
    days = later(40)
    known = Counter(compare_table(day, history).status.value for day in days)
    alone = Counter(compare_table(day, with_spread(history, None)).status.value for day in days)
    assert known["ok"] >= 36, known
    assert known["fail"] <= 2, known
    assert alone["fail"] >= 20, alone


@pytest.mark.parametrize(
    "change",
    [
        lambda day: {**day, "delay": 1000 * day["delay"]},
        lambda day: {**day, "delay": day["delay"] + 3},
        lambda day: {**day, "weight": day["weight"] + 6},
        lambda day: {**day, "line": np.full(ROWS, "red", object)},
        lambda day: {**day, "weight": np.full(ROWS, np.nan)},
        lambda day: {name: column for name, column in day.items() if name != "weight"},
        lambda day: {**day, "weight": np.where(np.arange(ROWS) % 40 == 0, 1000 * day["weight"], day["weight"])},
        lambda day: {**day, "arrival": -day["arrival"]},
    ],
    ids=["units", "shift", "steady-column", "one-level", "empty", "gone", "few-in-other-units", "correlation"],
)
def test_what_is_broken_fails_though_days_differ(history: Profile, change: Callable[[Table], Table]) -> None:
    assert [compare_table(change(day), history).status.value for day in later(3)] == ["fail"] * 3


def test_a_sentence_says_what_is_usual_and_that_nothing_is_known_without_windows(history: Profile) -> None:
    worse = {**later(1)[0]}
    worse["delay"] = worse["delay"] + 3
    report = compare_table(worse, history)
    assert "in 30 days of the reference" in report.drift["delay"].message
    usual = next(day for day in later(20) if any("usual" in note for note in compare_table(day, history).notes))
    assert "30 days of the reference" in next(note for note in compare_table(usual, history).notes if "usual" in note)
    assert any("--windows" in note for note in compare_table(worse, with_spread(history, None)).notes)


def test_a_slow_shift_is_found_where_it_leaves_what_is_usual(history: Profile) -> None:
    days = [{**day, "weight": day["weight"] + 0.4 * number} for number, day in enumerate(later(30))]
    found = [compare_table(day, history).status.value for day in days]
    assert found[-10:] == ["fail"] * 10
    assert "fail" not in found[:5]


def test_a_season_is_usual_where_the_reference_has_one() -> None:
    """Each window is compared with those before it, as a new one will be."""
    rng = np.random.default_rng(3)
    days = [a_day(number, rng) for number in range(50)]
    warmer = [{**day, "weight": day["weight"] + 0.3 * number} for number, day in enumerate(days)]
    reference = profile_of_table(joined(warmer[:40]))
    assert "weight" not in [
        each.feature for day in warmer[40:44] for each in compare_table(day, reference).drift.features if each.status == "fail"
    ]


def test_p_values_of_further_sound_windows_hold_their_level() -> None:
    rng = np.random.default_rng(0)
    p = []
    for _ in range(2000):
        effects = np.abs(rng.standard_normal(DAYS + 1))
        p.append(Usual(tuple(sorted(effects[:-1].tolist()))).p_value(float(effects[-1]), 0.0))
    shares = [float(np.mean(np.array(p) <= level)) for level in (0.05, 0.01)]
    assert shares[0] <= 0.06
    assert shares[1] <= 0.015


def test_a_difference_as_large_as_in_any_sound_window_is_usual() -> None:
    known = Usual((*[0.01] * 29, 0.5))
    assert known.p_value(0.49, 0.0) == 1.0
    assert known.p_value(0.9, 0.0) < 1e-6
    assert Usual((0.0,) * 30).p_value(0.01, 0.0) == 0.0  # what never differed leaves the question to chance
    assert Usual((0.05,) * 30, noise=0.0025).p_value(0.2, 0.01) > Usual((0.05,) * 30, noise=0.0025).p_value(0.2, 0.0025)


def test_a_profile_without_some_of_its_rows_is_that_of_the_others() -> None:
    days = later(2)
    whole = profile_of_table(joined(days))
    parts = [compare_profiles_on(day, whole) for day in days]
    assert parts[0].merge(parts[1]).less(parts[0]).features["delay"].to_json() == parts[1].features["delay"].to_json()
    assert parts[0].merge(parts[1]).less(parts[0]).features["line"].to_json() == parts[1].features["line"].to_json()


def compare_profiles_on(day: Table, whole: Profile) -> Profile:
    return compare_table(day, whole).profiles[1]


def test_a_spread_is_stored_with_the_profile(history: Profile) -> None:
    read = Profile.from_bytes(history.to_bytes())
    assert WindowSpread.of_profile(read) == WindowSpread.of_profile(history)
    assert read.edges_id == with_spread(history, None).edges_id


def test_windows_of_an_earlier_reference_that_moves_show_how_they_differ() -> None:
    days = later(12)
    whole = with_spread(profile_of_table(joined(days)), None)
    spread = spread_of_windows([compare_profiles_on(day, whole) for day in days])
    assert spread is not None
    assert spread.name == "12 earlier windows"
    assert compare_profiles(whole, compare_profiles_on(later(13)[-1], whole), DriftOptions(), spread).status.value != "fail"


@pytest.mark.parametrize(
    ("asked", "expected"),
    [("when", ("when", None)), ("when:week", ("when", "week")), ("a:b", ("a:b", None)), (":day", (":day", None))],
)
def test_a_column_of_windows_may_have_a_unit(asked: str, expected: tuple[str, str | None]) -> None:
    assert window_column(asked) == expected


def test_dates_are_put_together_by_days_weeks_and_months() -> None:
    moments = np.array(["2026-11-29T23:00", "2026-11-30T01:00", "NaT"], "M8[us]")
    assert window_labels(moments, None).tolist() == ["2026-11-29", "2026-11-30", ""]
    assert window_labels(moments, "week").tolist() == ["2026-11-23", "2026-11-30", ""]
    assert window_labels(moments, "month").tolist() == ["2026-11", "2026-11", ""]
    assert window_labels(np.array(["a", None, ""], object), None).tolist() == ["a", "", ""]
    with pytest.raises(ProfileError, match="only dates are put together by week"):
        window_labels(np.array(["a"], object), "week")


def test_of_many_windows_some_are_looked_at_whatever_their_order() -> None:
    labels = [f"batch-{number}" for number in range(1000)]
    kept = []
    for order in (labels, labels[::-1]):
        chosen = ChosenWindows()
        for label in order:
            chosen.add(label, 60)
        kept.append({label for label in labels if label in chosen})
    assert kept[0] == kept[1]
    assert MOST_WINDOWS / 4 <= len(kept[0]) <= MOST_WINDOWS


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("nowhere", "no column 'nowhere'"),
        ("line", "has 2 days or values"),
        ("delay", "have about 1 rows each"),
        ("line:week", "only dates"),
    ],
)
def test_windows_that_say_nothing_are_refused_in_one_line(asked: str, said: str) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ProfileError, match=said):
        profile_of_table(joined([a_day(number, rng, 60) for number in range(12)]), TableOptions(windows=asked))


def test_the_command_profiles_by_windows_and_refuses_them_of_a_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    table = joined([a_day(number, rng, 60) for number in range(12)])
    lines = [f"{number // 60},{value:.3f}" for number, value in enumerate(table["weight"])]
    Path("table.csv").write_text("\n".join(["batch,weight", *lines]), encoding="utf-8")
    assert main(["profile", "table.csv", "--name", "t", "--windows", "batch", "--without", "batch"]) == 0
    assert "by how far 12 values of `batch` of the reference differ" in capsys.readouterr().out
    Path("c.json").write_text("{}", encoding="utf-8")
    assert main(["profile", "--config", "c.json", "--windows", "batch"]) == 2
    assert "--windows is for a FILE" in capsys.readouterr().err


def test_the_first_windows_show_what_is_usual_where_the_reference_does_not() -> None:
    results = [{"effects": {"age": {"values": [0.1 + number / 100, 0.001]}}} for number in range(12)]
    night = datetime(2026, 11, 1, 2, tzinfo=timezone.utc)
    records = [WindowRecord(1, "shop", "k", night, night, "ok", 1, each) for each in results]
    spread = first_windows(records)
    assert spread is not None
    assert spread.name == "the first 12 windows"
    assert spread.features["age"]["values"].largest == pytest.approx(0.21)
    assert first_windows(records[:9]) is None
    many = first_windows(records * 5)
    assert many is not None
    assert many.windows == 30, "later ones do not count, or a slow drift would become usual"


def test_a_broken_window_among_the_first_ones_does_not_make_the_next_usual() -> None:
    effects = [0.03, 0.02, 0.05, 0.04, 0.03, 0.9, 0.02, 0.06, 0.03, 0.04, 0.05, 0.02]
    night = datetime(2026, 11, 1, 2, tzinfo=timezone.utc)
    results = [{"effects": {"age": {"values": [effect, 0.001]}}} for effect in effects]
    spread = first_windows([WindowRecord(1, "shop", "k", night, night, "ok", 1, each) for each in results])
    assert spread is not None
    assert spread.features["age"]["values"].largest == 0.06


def ring(day: int, seed: int, *, is_broken: bool = False) -> Table:
    """A day whose two numbers lie on a ring, each day's elsewhere on it; broken, they no longer do, though each is as before."""
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0, 2 * np.pi, 150)
    angle += 0.5 * np.sin(angle + day)
    one, other = np.cos(angle), np.sin(angle)
    when = np.full(150, np.datetime64("2026-01-01", "us") + np.timedelta64(day, "D"))
    return {"when": when, "one": one, "other": rng.permutation(other) if is_broken else other}


def test_rows_as_a_whole_drift_if_they_are_further_off_than_those_of_other_days_and_not_as_time_goes_on() -> None:
    days = [ring(day, day) for day in range(20)]
    table = {name: np.concatenate([each[name] for each in days]) for name in days[0]}
    reference = profile_of_table(table, TableOptions(joint=True, windows="when:day"))
    clean, broken = (compare_table(ring(30, 99, is_broken=broken), reference) for broken in (False, True))
    assert [each.code for each in clean.findings] == []
    assert [each.code for each in broken.findings] == ["joint_drift"]
    assert "in 20 days of the reference" in broken.findings[0].message
