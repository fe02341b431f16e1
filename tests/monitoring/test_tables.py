"""Tables without a model: ``modeltiers profile FILE``, ``modeltiers monitor FILE``, and what only a whole table shows."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from harness.cli import main
from harness.errors import ProfileError, ProfileMismatchError
from harness.monitoring.drift import compare_profiles
from harness.monitoring.drift.listing import MOST_DRAWN
from harness.monitoring.measures import Measure
from harness.monitoring.profiles import Profile, profile_columns
from harness.monitoring.tables import TableOptions, TableReport, compare_table, profile_of_table

ROWS = 3000


def table(seed: int, day: str = "2026-02-01", rows: int = ROWS) -> dict[str, Any]:
    """A mixed table: an id, a moment, numbers of which two go together, a category, free text, a count."""
    rng = np.random.default_rng(seed)
    age = rng.normal(40, 10, rows)
    hours = np.clip(rng.normal(13, 3, rows), 0, 23.9)
    when = np.datetime64(day, "us") + ((rng.integers(0, 28, rows) * 24 + hours) * 3.6e9).astype("m8[us]")
    words = np.array(["late", "fine", "broken", "für", "order"], object)
    return {
        "customer": np.array([f"C-{number:07d}" for number in rng.integers(0, 10**7, rows)], object),
        "when": when,
        "age": age,
        "income": np.exp(0.03 * age + rng.normal(0, 0.3, rows)),
        "temperature": rng.normal(60, 12, rows),
        "city": np.array(["Ulm", "Bonn", "Köln", None], object)[rng.choice(4, rows, p=[0.5, 0.3, 0.15, 0.05])],
        "note": np.array([" ".join(row) for row in words[rng.integers(0, 5, (rows, 7))]], object),
        "visits": rng.poisson(3, rows),
    }


REFERENCE = profile_of_table(table(0, "2026-01-01"))


def found(window: dict[str, Any]) -> TableReport:
    return compare_table(window, REFERENCE)


def codes(report: TableReport) -> list[str]:
    return [each.code for each in report.findings]


@pytest.mark.parametrize("seed", range(1, 5))
def test_a_later_month_that_is_like_the_reference_is_ok(seed: int) -> None:
    report = found(table(seed))
    assert (report.status.value, codes(report)) == ("ok", [])
    assert report.notes == (
        "cannot tell whether the values of `customer`, `note` drifted, as nearly every value is its own level: "
        "compared by `length`, `digits`, `script`",
        "not compared, as time continues after the reference: `when`",
    )


def test_a_few_values_in_other_units_are_outside_the_range() -> None:
    window = table(1)
    window["temperature"][::50] *= 1000
    report = found(window)
    assert report.drift.names("fail") == ["temperature"]
    (verdict,) = [one for one in report.drift["temperature"].verdicts if one.difference.aspect == "range"]
    assert verdict.message.startswith("the range of `temperature` has drifted: 2.0% of the values are outside ")
    assert (
        "most of them 100 to 1,000 times as large: other units?; share outside = 0.0203 (allowed below 0.01;" in verdict.message
    )


def test_another_time_zone_shows_in_the_hour() -> None:
    window = table(1)
    window["when"] = window["when"] + np.timedelta64(6, "h")
    report = found(window)
    assert report.drift.names("fail") == ["when.hour"]
    assert ", as if every value were 6 hours later: another time zone?; KS D = " in report.drift["when.hour"].message


PRICES, DEGREES = (lambda rng: rng.lognormal(3, 0.6, ROWS)), (lambda rng: rng.normal(40, 25, ROWS))


@pytest.mark.parametrize(
    ("draw", "change", "said"),
    [
        (PRICES, lambda x: x * 1.609344, "as if every value were 1.609 times as large: kilometres instead of miles?"),
        (PRICES, lambda x: x / 2.54, "as if every value were 0.3937 times as large: inches instead of centimetres?"),
        (
            DEGREES,
            lambda x: 1.8 * x + 32,
            "as if every value were 1.8 times as large and 32 more: Fahrenheit instead of Celsius?",
        ),
        (PRICES, lambda x: x * 100_000, "most values are more than 1,000 times as large: other units?"),
        (DEGREES, lambda x: x + 15, "as if every value were 15 more"),
        (DEGREES, lambda x: 2 * (x - 40) + 40, ""),
        (DEGREES, lambda x: np.where(np.arange(len(x)) % 2, x, x + 30), ""),
    ],
)
def test_values_that_all_changed_alike_are_said_to(draw: Callable[[Any], Any], change: Callable[[Any], Any], said: str) -> None:
    reference = profile_columns({"x": draw(np.random.default_rng(0))})
    window = profile_columns({"x": change(draw(np.random.default_rng(1)))}, reference)
    message = re.sub(r"1[45](\.\d+)? more;", "15 more;", compare_profiles(reference, window)["x"].message.splitlines()[0])
    assert f", {said}; " in message if said else "as if" not in message and "units" not in message


@pytest.mark.parametrize(
    ("name", "factor", "said"),
    [
        ("price", 1.6, "as if every value were 1.6"),
        ("price", 1.609344, "as if every value were 1.6"),
        ("distance_km", 1.609344, "kilometres instead of miles?"),
        ("weight", 1000.0, "grams instead of kilograms?"),
        ("price", 100.0, "cents instead of euros?"),
        ("x", 1.5, "as if every value were 1.5"),
    ],
)
def test_a_unit_is_asked_about_where_the_name_of_a_column_and_the_factor_fit(name: str, factor: float, said: str) -> None:
    reference = profile_columns({name: PRICES(np.random.default_rng(0))})
    window = profile_columns({name: factor * PRICES(np.random.default_rng(1))}, reference)
    message = compare_profiles(reference, window)[name].message
    assert said in message or "other units?" in message
    assert ("instead of" in message) == ("instead of" in said and "other units?" not in message)


def test_new_levels_are_named_and_those_that_are_only_written_otherwise() -> None:
    window = table(1)
    window["city"] = np.array([city and city.upper() for city in window["city"]], object)
    report = found(window)
    assert "does not have ('BONN', 'KÖLN', 'ULM'; 'BONN' is 'Bonn' in another case)" in report.drift["city"].message
    window = table(1)
    window["city"] = np.array([city and city.encode().decode("latin-1") for city in window["city"]], object)
    report = found(window)
    assert "('KÃ¶ln'; 'KÃ¶ln' is 'Köln' in a wrong encoding)" in report.drift["city"].message
    parts = [profile_columns({"city": window["city"][start:][:500]}, REFERENCE.only(["city"])) for start in range(0, ROWS, 500)]
    assert reduce(Profile.merge, parts) == profile_columns({"city": window["city"]}, REFERENCE.only(["city"]))


@pytest.mark.parametrize("reader", ["arrow", "python"])
def test_words_for_missing_numbers_are_no_levels_and_texts_that_are_no_numbers_are_shown(
    tmp_path: Path, reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reader == "python":
        monkeypatch.setattr("harness.data.readers.text.find_spec", lambda _: None)
    rng = np.random.default_rng(0)
    words = ["NA", "null", "", "?", "N/A", "NaN"]

    def write(name: str, number: str = "{:.2f}", day: str = "2026-03-{:02d}", zone: str = "Z") -> Path:
        lines = ["price,when,place"]
        for row in range(400):
            price = words[row // 20 % 6] if row % 20 == 0 else number.format(rng.normal(20, 5))
            lines.append(f"{price},{day.format(row % 28 + 1)}T{row % 24:02d}:00:00{zone},{'NA' if row % 3 else 'BE'}")
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
        return tmp_path / name

    reference = profile_of_table(write("reference.csv"))
    kinds = {name: feature.kind for name, feature in reference.features.items()}
    assert kinds == {"price": "numeric", "when": "numeric", "when.hour": "numeric", "place": "categorical"}
    assert [reference.features[name].missing for name in ("price", "when", "place")] == [20, 0, 0]
    assert compare_table(write("same.csv", zone="+00:00"), reference).status.value == "ok"
    report = compare_table(write("other.csv", number='"{:.1f}"', day="0{:d}.03.2026 "), reference)
    assert report.drift.names("fail") == ["when", "when.hour"]
    assert report.notes[0] == "texts of `when` that are no dates count as missing, such as '01.03.2026 T00:00:00Z'"
    report = compare_table(write("euros.csv", number="{:.2f} €"), reference)
    assert report.drift.names("fail") == ["price"]
    assert "cannot tell" not in report.drift.message
    assert report.notes[0].startswith("texts of `price` that are no numbers count as missing, such as '")
    assert ["judged by chance" in note for note in report.notes[1:]] == [True]


def test_another_encoding_is_a_script_that_was_never_there() -> None:
    window = table(1)
    window["note"] = np.array([text.encode().decode("latin-1") for text in window["note"]], object)
    report = found(window)
    assert "note.script" in report.drift.names("fail")
    assert "levels that the reference does not have" in report.drift["note.script"].message


def test_columns_that_are_gone_and_new_ones_are_findings() -> None:
    window = table(1)
    window["Age"] = window.pop("age")
    report = found(window)
    assert [(each.status.value, each.code) for each in report.findings] == [("fail", "column_gone"), ("warn", "column_new")]
    assert report.findings[0].message == "the column `age` is gone. Did you mean 'Age'?"
    assert report.findings[1].message == "1 column that the reference does not have, not compared: `Age`"
    with pytest.raises(
        ProfileMismatchError,
        match=r"none of the columns of the reference .*: it has `x`; is its first line the header\?",
    ):
        found({"x": np.zeros(10)})


def test_columns_that_no_longer_go_together_are_a_finding() -> None:
    window = table(1)
    window["income"] = np.random.default_rng(0).permutation(window["income"])
    report = found(window)
    assert codes(report) == ["correlation_lost"]
    assert report.drift.status.value == "ok"
    assert report.findings[0].message.startswith("`age` and `income` go together otherwise: rank correlation ")


def test_a_file_that_was_sent_twice_and_rows_of_the_reference_are_findings() -> None:
    window = table(1)
    twice = {name: np.concatenate([column, column[:600]]) for name, column in window.items()}
    assert codes(found(twice)) == ["rows_repeated"]
    assert (
        found(twice).findings[0].message
        == "17% of the rows are repetitions of others (0% in the reference): was a file sent twice?"
    )
    old = table(0, "2026-01-01")
    mixed = {name: np.concatenate([column[:1500], old[name][:1500]]) for name, column in window.items()}
    assert "rows_of_reference" in codes(found(mixed))
    part = found({name: column[:1500] for name, column in old.items()})
    assert part.findings[0].message == "about 100% of the rows are the reference's own, so this says nothing about new rows"


def test_a_part_says_nothing_new_of_a_feature_that_drifted_on_the_whole() -> None:
    reference = profile_of_table(table(0, "2026-01-01"), TableOptions(slices=["city"]))
    window = table(1)
    window["temperature"] = window["temperature"] + 15
    assert codes(compare_table(window, reference)) == []
    window["visits"] = np.where(window["city"] == "Köln", window["visits"] + 2, window["visits"])
    (part,) = compare_table(window, reference).findings
    assert part.code == "slice_drifted"
    assert part.message.startswith("in city=Köln `visits` has drifted")


def test_texts_that_were_sent_twice_are_a_finding_where_a_table_has_no_numbers() -> None:
    texts = [{"language": np.array(["de", "fr"], object)[np.arange(ROWS) % 2], "note": table(seed)["note"]} for seed in range(2)]
    reference = profile_of_table(texts[0])
    assert codes(compare_table(texts[1], reference)) == []
    twice = {name: np.concatenate([column, column[:900]]) for name, column in texts[1].items()}
    assert codes(compare_table(twice, reference)) == ["rows_repeated"]


def test_the_reference_itself_is_called_that() -> None:
    report = found(table(0, "2026-01-01"))
    assert (report.status.value, codes(report)) == ("ok", [])
    assert "the same rows as the reference" in report.drift.message


def test_a_profile_of_something_else_is_refused() -> None:
    with pytest.raises(
        ProfileMismatchError, match="the reference is not that of a table: profile one by `modeltiers profile FILE`"
    ):
        compare_table(table(1), profile_columns({"x": np.arange(10.0)}))


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    status = main([*arguments, "--json"])
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return status, document


def test_the_command_line_profiles_and_monitors_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    pyarrow.parquet.write_table(pa.table(table(0, "2026-01-01")), "january.parquet")
    pyarrow.csv.write_csv(pa.table(table(1)), "february.csv")
    window = table(2)
    window["age"] += 8
    pyarrow.parquet.write_table(pa.table(window), "march.parquet")
    status, stored = answer(capsys, "profile", "january.parquet", "--name", "january", "--without", "visits")
    assert (status, stored["rows"], stored["name"]) == (0, ROWS, "january")
    assert "visits" not in [each["feature"] for each in stored["features"]]
    assert answer(capsys, "monitor", "february.csv", "--reference", "january")[0] == 0
    status, drifted = answer(capsys, "monitor", "march.parquet", "--reference", "january")
    assert (status, drifted["status"], drifted["drift"]["drifted"][0]) == (1, "fail", "age")
    status, by_file = answer(capsys, "monitor", "march.parquet", "--reference", "january.parquet")
    assert (status, by_file["drift"]["drifted"]) == (1, drifted["drift"]["drifted"])
    assert main(["monitor", "march.parquet", "--reference", "january"]) == 1
    told = capsys.readouterr().out
    assert told.startswith("FAIL  `age`")
    assert told.endswith("status: fail\n")


def test_a_wide_parquet_file_is_read_by_groups_of_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pyarrow.parquet.write_table(pa.table(table(0, "2026-01-01")), tmp_path / "a.parquet")
    pyarrow.parquet.write_table(pa.table(table(1)), tmp_path / "b.parquet")
    whole = profile_of_table(tmp_path / "a.parquet", TableOptions(without=["city"]))
    monkeypatch.setattr("harness.monitoring.profiles.tables.COLUMNS_AT_ONCE", 3)
    parts = profile_of_table(tmp_path / "a.parquet", TableOptions(without=["city"]))
    assert (parts.edges_id, list(parts.features)) == (whole.edges_id, list(whole.features))
    assert compare_table(tmp_path / "b.parquet", parts).drift.to_json() == compare_table(table(1), whole).drift.to_json()
    with pytest.raises(ProfileError, match=r"`without`: no column 'town'"):
        profile_of_table(tmp_path / "a.parquet", TableOptions(without=["town"]))


def test_the_page_lists_every_feature_the_worst_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    pyarrow.parquet.write_table(pa.table({f"x{n}": rng.standard_normal(2000) for n in range(250)}), tmp_path / "a.parquet")
    moved = {f"x{n}": rng.standard_normal(2000) + (0.5 if n >= 100 else 0) for n in range(250)}
    pyarrow.parquet.write_table(pa.table({**moved, "<new>": rng.standard_normal(2000)}), tmp_path / "b.parquet")
    files = [str(tmp_path / name) for name in ("b.parquet", "a.parquet", "page.html")]
    assert main(["monitor", files[0], "--reference", files[1], "--html", files[2]]) == 1
    capsys.readouterr()
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<h1>150 of 250 features drifted</h1>" in page
    rows = re.findall(r'<tr class="\w+" data-status="(\w+)"><th scope="row"><code>x(\d+)</code>', page)
    assert sorted(int(number) for _, number in rows) == list(range(250))
    assert [status for status, _ in rows] == ["fail"] * 150 + ["ok"] * 100
    assert page.count("<svg") == MOST_DRAWN
    assert "&lt;new&gt;" in page
    assert "<new>" not in page
    assert len(page) < 150_000


def answers(seed: int, refused: float, rows: int = 900) -> dict[str, Any]:
    """Answers of a language model in three languages; of the German ones so large a share is refused."""
    rng = np.random.default_rng(seed)
    language = rng.choice(["en", "de", "fr"], rows)
    is_refused = rng.random(rows) < np.where(language == "de", refused, 0.03)
    said = [" ".join(rng.choice(["the", "order", "is", "late"], rng.integers(4, 40))) for _ in range(rows)]
    answer = [
        f"Sorry, I cannot help ({place})." if no else text for place, (no, text) in enumerate(zip(is_refused, said, strict=True))
    ]
    return {"language": language.astype(object), "answer": np.array(answer, object)}


def lengths(rows: dict[str, list[Any]]) -> dict[str, Any]:
    return {"words": np.array([[len(text.split()), text.count("e")] for text in rows["answer"]], float)}


def test_refusals_by_rule_are_found_in_the_part_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = Measure.parse("refused=answer~(?i)^sorry")
    reference = profile_of_table(answers(0, 0.03), TableOptions(slices=["language"], measures=[rule]))
    same = compare_table(answers(1, 0.03), reference)
    assert (same.status.value, codes(same)) == ("ok", [])
    report = compare_table(answers(2, 0.2), reference)
    assert report.drift["refused"].status.value == "warn", "on the whole it is less than what is allowed"
    assert codes(report) == ["slice_drifted"]
    assert report.findings[0].message.startswith("in language=de `refused` has drifted: Cramér's V = 0.2")


def test_columns_by_a_function_are_compared_and_not_run_unasked() -> None:
    own = Measure("judge.py:lengths", lengths)
    reference = profile_of_table(answers(0, 0.03), TableOptions(measures=[own]))
    assert reference.features["words"].kind == "vector"
    assert compare_table(answers(1, 0.03), reference, measures=[own]).status.value == "ok"
    with pytest.raises(ProfileMismatchError, match=r"not run unasked: add --measure judge\.py:lengths"):
        compare_table(answers(1, 0.03), reference)


def test_lists_of_numbers_are_vectors_and_other_nested_columns_are_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vectors = [*rng.normal(size=(299, 4)).tolist(), None]
    tags = pa.array([["x"] * (place % 3) for place in range(300)])
    pyarrow.parquet.write_table(pa.table({"embedding": pa.array(vectors), "tags": tags}), tmp_path / "a.parquet")
    report = compare_table(tmp_path / "a.parquet", profile_of_table(tmp_path / "a.parquet"))
    assert [one.feature for one in report.drift.features] == ["embedding"]
    assert report.notes == ("not looked at, as no list of numbers of one length, but nested: `tags`",)


def test_three_columns_that_go_together_otherwise_are_found_where_rows_are_kept() -> None:
    """Each two of them are independent before and after, so that neither a column nor a correlation shows it."""

    def threes(seed: int, dependent: bool) -> dict[str, Any]:
        rng = np.random.default_rng(seed)
        a, b, c = rng.normal(size=(3, 1000))
        return {"a": a, "b": b, "c": np.abs(c) * np.sign(a * b) if dependent else c}

    reference = profile_of_table(threes(0, False), TableOptions(joint=True))
    assert compare_table(threes(2, False), reference).status.value == "ok"
    report = compare_table(threes(2, True), reference)
    assert (report.drift.status.value, codes(report)) == ("ok", ["joint_drift"])
    assert compare_table(threes(2, True), profile_of_table(threes(0, False))).status.value == "ok", "nothing is kept unasked"


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("x=text~(", "'(' is not a regular expression: "),
        ("x=texd~a", "no column 'texd'. Did you mean 'text'?"),
        ("text=text~a", "the table has a column `text` already"),
        ("refused", "expected NAME=COLUMN~REGEX, such as refused=answer~^Sorry, or FILE.py:FUNCTION"),
        ("own.py:none", "own.py has no 'none'"),
        ("own.py:raises", "it raised ValueError: no judge (own.py, line 2)"),
        ("own.py:short", "`n` has shape [1], expected one value or one vector for each of 2 rows"),
        ("own.py:number", "gave a int, expected new columns by name"),
    ],
)
def test_what_is_wrong_with_a_measure_is_one_line(
    said: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.csv").write_text("text\nfine\nlate\n", encoding="utf-8")
    own = "def raises(rows):\n    raise ValueError('no judge')\ndef short(rows):\n    return {'n': [1]}\ndef number(rows):\n    return 1\n"
    Path("own.py").write_text(own, encoding="utf-8")
    assert main(["profile", "a.csv", "--measure", said]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["profile"], "profile: give --config FILE for a model and its data, or a table without a model"),
        (["monitor", "a.csv"], "monitor: name what to compare with by --reference"),
        (["monitor", "a.csv", "--reference", "x"], "no such database: name a stored reference, or a file to compare with"),
        (["profile", "b.csv"], "no such file b.csv"),
    ],
)
def test_what_is_wrong_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.csv").write_text("x\n1\n", encoding="utf-8")
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_the_time_of_a_table_without_a_model_is_refused_as_nothing_would_keep_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["monitor", "march.csv", "--reference", "january", "--at", "2026-03-01"]) == 2
    assert "--at is for a config, whose windows are stored" in capsys.readouterr().err
