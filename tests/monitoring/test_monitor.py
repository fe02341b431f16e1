"""A trained model, monitored on what comes after: clean, shifted, with flipped labels, without labels."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from monitored import COLUMNS, MODEL, PRODUCTION, Shop, open_shop, rows, write
from numpy.typing import NDArray

from harness.batches import Sizes
from harness.charts import LineChart
from harness.charts.pictures import distributions_of
from harness.cli import main
from harness.config import EvalConfig, TrainingConfig, load_config
from harness.config_keys import DriftFloors
from harness.data.data_reference import dataset_id
from harness.data.examples import example_maker
from harness.errors import ConfigError, DataError, UserError
from harness.experiments import ExperimentDB, ExperimentError, UnknownRunError
from harness.models.loading import model_source
from harness.monitoring import Limits, windows_at
from harness.monitoring.checks import judge_monitoring
from harness.monitoring.profile_command import profile_config
from harness.monitoring.profiles import profile_columns
from harness.monitoring.reference import load_reference, open_window
from harness.monitoring.run import drift_table, monitor_config, monitor_of, run_tier5_monitoring
from harness.monitoring.verdict import has_improved
from harness.training.run import run_training, train_config


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return open_shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def monitored(shop: Shop) -> Callable[..., dict[str, Any]]:
    known: dict[str, dict[str, Any]] = {}

    def results(data: str, **keys: Any) -> dict[str, Any]:
        name = json.dumps([data, keys])
        if name not in known:
            known[name] = shop.monitored(data, **keys)
        return known[name]

    return results


Monitored = Callable[..., dict[str, Any]]


@pytest.mark.parametrize(
    ("data", "status"),
    [("clean.csv", "ok"), ("shifted.csv", "warn"), ("flipped.csv", "fail"), ("unlabelled.csv", "ok")],
)
def test_the_gate_is_green_on_what_it_knows_and_red_on_what_hurts(monitored: Monitored, data: str, status: str) -> None:
    assert monitored(data)["status"] == status


def test_clean_data_is_evaluated_and_no_check_warns(monitored: Monitored) -> None:
    found = monitored("clean.csv")
    assert found["eval_metrics"]["accuracy"] > 0.9
    assert found["drift"]["drifted"] == found["drift"]["changed"] == []
    assert found["harm"]["status"] == "ok"
    assert {name for name, check in found["checks"].items() if check["status"] == "skipped"} == {"baseline_regression"}


def test_the_verdict_of_a_check_does_not_depend_on_the_others(shop: Shop, monitored: Monitored) -> None:
    together = monitored("shifted.csv", baseline_run_id=PRODUCTION)["checks"]
    for label in reversed(list(together)):
        name, _, case = label.rstrip("]").partition("[")
        config = shop.config("shifted.csv", baseline_run_id=PRODUCTION)
        found = judge_monitoring(name, monitor_of(config, model_source(config).build(0)), case)
        assert {"status": found.status.value, "message": found.message} == together[label]


def test_each_number_says_what_it_is_a_mean_of(tmp_path: Path) -> None:
    """The loss of an evaluation counts tokens, that of a comparison counts rows."""
    config = tmp_path / "lm.json"
    keys = {"task_name": "lm_tiny", "log_to_db": True, "run_name": "lm", "epochs": 1, "train": {"max_eval_examples": 32}}
    config.write_text(json.dumps({**keys, "eval": {"dataset_id": "lm_tiny_v1", "max_eval_examples": 20}}), encoding="utf-8")
    trained = train_config(load_config(config), progress=False)
    found = monitor_config(load_config(config), baseline=trained["run_id"]).data
    assert found["definitions"]["loss"] == "over all labelled tokens of the data; each token counts once"
    assert found["comparison"]["definitions"]["loss"].startswith("mean over the rows of each row's own mean")
    assert "each token counts once" in found["checks"]["evaluation"]["message"]
    assert "loss per sample" in found["checks"]["baseline_regression"]["message"]


def test_features_that_did_not_drift_are_listed_too(shop: Shop, monitored: Monitored, capsys: pytest.CaptureFixture[str]) -> None:
    answer = monitor_config(shop.config("shifted.csv"))
    names = [feature["feature"] for feature in answer.data["drift"]["features"]]
    assert {*COLUMNS, "label"} < {*names}
    lines = answer.text.splitlines()
    table = [line.split()[:2] for line in lines[lines.index("") + 1 :]]
    head, *rows = table[: len(names) + 1]
    assert head == ["FEATURE", "STATUS"]
    assert rows[0] == ["age", "warn"]
    assert sorted(name for name, _ in rows) == sorted(names)
    assert "`income`" in monitored("clean.csv")["checks"]["drift[inputs]"]["message"]


def test_a_table_of_many_features_says_how_many_it_leaves_out(monitored: Monitored) -> None:
    features = monitored("clean.csv")["drift"]["features"]
    assert drift_table(features, most=2).splitlines()[-1] == f"… and {len(features) - 2} other features, which --json lists"


def test_a_shift_that_does_not_hurt_warns_and_names_the_feature(monitored: Monitored) -> None:
    found = monitored("shifted.csv")
    inputs = found["checks"]["drift[inputs]"]
    assert inputs["status"] == "warn"
    assert inputs["message"].startswith("`age` has drifted: the share below ")
    assert "accuracy holds, so this is only a warning" in inputs["message"]
    assert found["drift"]["features"][0]["contribution"] >= found["drift"]["features"][-1]["contribution"]
    assert found["harm"]["status"] == "ok"


def test_a_shift_nobody_can_tell_the_harm_of_fails(shop: Shop, tmp_path: Path) -> None:
    with ExperimentDB(shop.database) as db:
        profile = db.get_profile(PRODUCTION)
        with db.start_run("inputs alone") as run:
            from harness.experiments import log_profile_to_db
            from harness.monitoring.profiles import Profile

            log_profile_to_db(db, run.id, Profile.from_bytes(profile).only(["age", "income", "visits"]))
    found = shop.monitored("shifted.csv", reference_profile_id=run.id)
    assert found["status"] == found["checks"]["drift[inputs]"]["status"] == "fail"
    assert found["drift"]["drifted"] == ["age"]
    assert "made without" in found["checks"]["drift[outputs]"]["message"]
    assert found["checks"]["harm"]["status"] == "skipped"


def test_labels_of_another_meaning_show_in_scores_and_accuracy_and_in_no_input(monitored: Monitored) -> None:
    checks = monitored("flipped.csv")["checks"]
    assert checks["drift[inputs]"]["status"] == checks["drift[outputs]"]["status"] == "ok"
    assert checks["drift[scores]"]["status"] == checks["harm"]["status"] == "fail"
    assert "score.loss" in checks["drift[scores]"]["message"]
    assert checks["harm"]["message"].startswith("accuracy has fallen")


def test_a_model_that_became_better_is_no_alarm(shop: Shop, monitored: Monitored) -> None:
    features, labels = rows(3000, 8)
    clear = abs(features[:, 0] + features[:, 1]) > 0.8  # the rows that nobody gets wrong
    write(shop.folder / "easy.csv", features[clear], labels[clear])
    checks = monitored("easy.csv")["checks"]
    assert checks["drift[scores]"]["status"] == checks["harm"]["status"] == "ok"
    assert "changed for the better" in checks["drift[scores]"]["message"]


@pytest.mark.parametrize(
    ("name", "now", "is_better"),
    [
        ("score.loss", lambda x: x / 2, True),
        ("score.loss", lambda x: x * 2, False),
        ("score.loss", lambda x: np.where(np.arange(len(x)) % 10, x / 2, x * 20), False),
        ("score.cost", lambda x: x * 2, False),
        ("score.cost", lambda x: x / 2, False),
        ("score.price.squared_error", lambda x: x / 2, True),
        ("score.accuracy", lambda x: x + 1, True),
    ],
    ids=[
        "lower-loss",
        "higher-loss",
        "most-lower-some-much-higher",
        "unknown-higher",
        "unknown-lower",
        "lower-error",
        "higher-accuracy",
    ],
)
def test_only_a_score_whose_direction_is_known_and_of_which_no_part_is_worse_is_better(
    name: str, now: Callable[[Any], Any], is_better: bool
) -> None:
    rng = np.random.default_rng(0)
    reference = profile_columns({name: rng.exponential(1.0, 2000)})
    window = profile_columns({name: now(rng.exponential(1.0, 1000))}, reference)
    assert has_improved(name, reference.features[name], window.features[name]) is is_better


def test_accuracy_is_estimated_where_there_are_no_labels(monitored: Monitored) -> None:
    found = monitored("shifted_unlabelled.csv")
    truth = monitored("shifted.csv")["eval_metrics"]["accuracy"]
    assert found["eval_metrics"] is None
    assert abs(found["harm"]["accuracy"] - truth) < 0.03
    assert found["checks"]["drift[labels]"]["status"] == "skipped"
    inputs = found["checks"]["drift[inputs]"]
    assert (inputs["status"], found["checks"]["harm"]["status"]) == ("fail", "ok")
    assert "accuracy seems to hold, but is only estimated: without labels, drift still fails" in inputs["message"]


def test_numbers_that_are_not_finite_are_counted(shop: Shop, monitored: Monitored) -> None:
    features, _ = rows(600, 9)
    features[::3, 1] = float("nan")
    write(shop.folder / "holes.csv", features, None)
    message = monitored("holes.csv")["checks"]["drift[inputs]"]["message"]
    assert "missing values of `income` have drifted" in message


def write_sessions(path: Path, sessions: int, seed: int, move: float = 0.0) -> None:
    """Ten rows a session, which differ little."""
    features, _ = rows(sessions, seed, move)
    features = np.repeat(features, 10, axis=0) + 0.05 * np.random.default_rng(seed).standard_normal((10 * sessions, 3))
    labels = features[:, 0] + features[:, 1] > 0
    lines = [
        f"{','.join(f'{value:.5f}' for value in row)},{'s' + str(place // 10)},{'north' if place % 30 < 10 else 'south'},{int(label)}"
        for place, (row, label) in enumerate(zip(features, labels, strict=True))
    ]
    path.write_text("\n".join([",".join((*COLUMNS, "session", "region", "label")), *lines]) + "\n", encoding="utf-8")


def test_rows_of_sessions_count_once_where_the_column_is_named_and_warn_where_it_is_not(shop: Shop) -> None:
    """Rates over many windows are in `benchmarks/drift_false_alarms.py`."""
    write_sessions(shop.folder / "sessions.csv", 60, seed=1)
    place = {"path": "sessions.csv", "slices": ["session", "region"]}
    unnamed = shop.monitored("", eval=place)
    assert "neighbouring rows resemble each other in `" in unnamed["checks"]["drift[inputs]"]["message"]
    assert unnamed["drift"]["named"]
    named = shop.monitored("", eval={**place, "group": "session"})
    assert named["drift"]["named"] == []
    assert "; judged by 1 row of each of 60 groups of `session`" in named["checks"]["drift[inputs]"]["message"]
    assert "60 rows against 2,000" in named["checks"]["harm"]["message"]
    assert named["checks"]["harm"]["message"].endswith(
        "; parts are not compared, as the reference keeps none: profile it with the same `slices`"
    )
    write_sessions(shop.folder / "moved.csv", 200, seed=2, move=0.8)
    moved = shop.monitored("", eval={**place, "path": "moved.csv", "group": "session"})
    assert "age" in [*moved["drift"]["drifted"], *moved["drift"]["changed"]]
    with pytest.raises(DataError, match=r"moved.csv: no column 'sesion'\. Did you mean 'session'\?"):
        shop.monitored("", eval={**place, "path": "moved.csv", "group": "sesion"})


def test_rows_that_were_sent_twice_and_rows_of_the_reference_warn(shop: Shop, monitored: Monitored) -> None:
    clean, old = ((shop.folder / name).read_text(encoding="utf-8").splitlines() for name in ("clean.csv", "eval.csv"))
    (shop.folder / "twice.csv").write_text("\n".join([*clean, *clean[1:400]]) + "\n", encoding="utf-8")
    found = monitored("twice.csv")["checks"]["drift[inputs]"]
    assert found["status"] == "warn"
    assert found["message"].startswith(
        "29% of the rows are repetitions of others (0% in the reference): was a file sent twice?; no drift"
    )
    (shop.folder / "mixed.csv").write_text("\n".join([*clean, *old[1:1001]]) + "\n", encoding="utf-8")
    found = monitored("mixed.csv")["checks"]["drift[inputs]"]
    assert found["status"] == "warn"
    assert re.match(r"about [45]\d% of the rows are the reference's own, which hides drift of the others; no", found["message"])
    assert monitored("clean.csv")["checks"]["drift[inputs]"]["status"] == "ok"


def test_a_window_with_texts_among_numbers_is_read_and_what_stands_there_is_said(shop: Shop, monitored: Monitored) -> None:
    head, *lines = (shop.folder / "clean.csv").read_text(encoding="utf-8").splitlines()
    cells = [line.split(",") for line in lines]
    words = [[age, income if place % 3 else "NA", *others] for place, (age, income, *others) in enumerate(cells)]
    texts = [[age, f"{income} EUR", *others] for age, income, *others in cells]
    for name, rows_ in (("words.csv", words), ("texts.csv", texts)):
        (shop.folder / name).write_text("\n".join([head, *map(",".join, rows_)]) + "\n", encoding="utf-8")
    message = monitored("words.csv")["checks"]["drift[inputs]"]["message"]
    assert "missing values of `income` have drifted" in message
    assert "no numbers" not in message
    checks = monitored("texts.csv")["checks"]
    assert checks["drift[inputs]"]["message"].startswith(
        "the column `income` is gone, or has no number: missing values of `income`"
    )
    assert (
        f"; texts of `income` that are no numbers count as missing, such as '{cells[0][1]} EUR'"
        in checks["drift[inputs]"]["message"]
    )


def test_columns_that_eval_says_are_no_features_are_none_of_the_training_rows_either(shop: Shop) -> None:
    for name in ("train", "clean"):
        head, *lines = (shop.folder / f"{name}.csv").read_text(encoding="utf-8").splitlines()
        lines = [f"{head},day", *(f"{line},d{place % 7}" for place, line in enumerate(lines))]
        (shop.folder / f"{name}_day.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    train = {"path": "train_day.csv"}
    assert shop.monitored("", eval={"path": "clean_day.csv", "without": ["day"]}, train=train)["status"] == "ok"
    with pytest.raises(DataError, match=r"4 feature columns .*; name those that are no features by `without`"):
        shop.monitored("", eval={"path": "clean_day.csv"}, train=train)


@pytest.fixture(scope="module")
def nights(shop: Shop) -> list[dict[str, Any]]:
    """Five nights at two o'clock, which move from the third on; the fourth is monitored twice."""
    found = []
    for night in (0, 1, 2, 3, 3, 4):
        write(shop.folder / f"night{night}.csv", *rows(500, 100 + night, move=0.6 if night > 1 else 0.0))
        config = shop.config(f"night{night}.csv", run_name="nightly")
        found.append(monitor_config(config, time=datetime(2026, 11, 2 + night, 2)).data)
    return found


def test_every_window_is_a_row_and_its_series_say_since_when_they_are_beyond_their_limit(
    shop: Shop, nights: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert [night["status"] for night in nights] == ["ok", "ok", "warn", "warn", "warn", "warn"]
    assert "`age` is beyond its limit since 2026-11-04 02:00 (3 windows)" in nights[-1]["checks"]["drift[inputs]"]["message"]
    assert "since 2026" not in nights[2]["checks"]["drift[inputs]"]["message"]
    assert main(["runs", "shop-1", "--db", str(shop.database)]) == 0
    assert "TIME              NAME" in capsys.readouterr().out
    assert main(["runs", "shop-1", "--db", str(shop.database), "--json"]) == 0
    windows = [one for one in json.loads(capsys.readouterr().out)["run"]["windows"] if one["name"] == "nightly-monitoring"]
    assert [one["status"] for one in windows] == ["ok", "ok", "warn", "warn", "warn"], "the rows of a night are counted once"
    assert main(["runs", PRODUCTION, "--metric", "age", "--db", str(shop.database), "--json"]) == 0
    series = json.loads(capsys.readouterr().out)
    ours = [one for one in series["values"] if one["time"].startswith("2026-11-0")]
    assert [one["is_outside"] for one in ours] == [False, False, True, True, True]
    assert {one["limit"] for one in ours} == {0.1}


def test_windows_without_an_end_share_one_rate(shop: Shop, nights: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    assert sum(1 / windows_at(place) for place in range(100 * 365)) == pytest.approx(1, abs=0.007)
    assert sum(1 / windows_at(place) for place in range(100 * 365)) < 1
    monkeypatch.setattr("harness.monitoring.YEAR", 2)
    config = shop.config("night0.csv", run_name="nightly", expected_windows="unlimited")
    shares = []
    for time in (None, datetime(2026, 11, 2, 2), datetime(2026, 11, 5, 2)):
        monitor = monitor_of(config, model_source(config).build(0))
        monitor.memory = replace(monitor.memory, time=time and time.timestamp())
        shares.append(monitor.options.windows)
    assert shares == [windows_at(4), windows_at(0), windows_at(2)], "the same rows again take their own place"


def test_a_series_is_drawn_by_command(
    shop: Shop, nights: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    series = ["runs", PRODUCTION, "--db", str(shop.database), "--svg", str(tmp_path / "age.svg"), "--metric"]
    assert main([*series, "age"]) == 0
    drawn = (tmp_path / "age.svg").read_text(encoding="utf-8")
    assert drawn.startswith("<?xml")
    assert "<dc:title>age: KS D over" in drawn
    assert main([*series, "aeg"]) == 2
    assert "--svg draws one series of the windows of a run: name it by --metric of production: " in capsys.readouterr().err


def test_labels_that_come_late_take_the_place_of_their_window(shop: Shop) -> None:
    features, labels = rows(300, 77)
    for known, measure in ((None, "estimated accuracy"), (labels, "accuracy")):
        write(shop.folder / "late.csv", features, known)
        config = shop.config("late.csv", run_name="late")
        monitor = monitor_of(config, model_source(config).build(0))
        monitor.memory = replace(monitor.memory, time=datetime(2026, 11, 2, 2).timestamp())
        (window,) = monitor.history
        assert window.result["series"]["accuracy"]["measure"] == measure


def test_labels_that_came_for_some_rows_measure_these_and_the_others_are_estimated(shop: Shop) -> None:
    features, labels = rows(1000, 78)
    write(shop.folder / "partly.csv", features, labels)
    lines = (shop.folder / "partly.csv").read_text(encoding="utf-8").splitlines()
    late = [line.rpartition(",")[0] + "," if place > 400 else line for place, line in enumerate(lines)]
    (shop.folder / "partly.csv").write_text("\n".join(late) + "\n", encoding="utf-8")
    found = shop.monitored("partly.csv", run_name="partly")
    harm = found["checks"]["harm"]["message"]
    assert "; 400 rows against 2,000; of the rows without labels: no loss of accuracy is seen: an estimate of " in harm
    assert "; 600 rows against 2,000; estimated without labels" in harm
    assert found["harm"]["unlabelled"]["n"] == 600
    assert "(400 rows against 2,000); 600 of 1,000 rows have no label yet" in found["checks"]["drift[labels]"]["message"]
    assert found["status"] == "ok"


def write_first_class_first(path: Path, features: NDArray[np.float64], labels: NDArray[np.int64]) -> None:
    """Rows of which only those of the first class have a label."""
    write(path, features, labels)
    head, *lines = path.read_text(encoding="utf-8").splitlines()
    late = [line[:-1] if line.endswith(",1") else line for line in lines]
    path.write_text("\n".join([head, *late]) + "\n", encoding="utf-8")


def test_labels_of_one_class_that_come_first_are_no_drift(shop: Shop) -> None:
    features, labels = rows(1000, 79)
    write_first_class_first(shop.folder / "first.csv", features, labels)
    found = shop.monitored("first.csv", run_name="first", thresholds={"accuracy": 0.999})
    status, message = (found["checks"]["drift[labels]"][key] for key in ("status", "message"))
    assert status == "warn"
    assert "can make up for it, and no answer has changed, so this only warns until their labels come" in message
    assert found["checks"]["evaluation"]["status"] == "warn"
    assert "see drift[labels]" in found["checks"]["evaluation"]["message"]
    assert "so each class counts as in the reference" in found["checks"]["harm"]["message"]
    low, high = found["harm"]["interval"]
    assert high - low > 0.45, "nobody knows of the other class, which is half of the rows"
    assert found["harm"]["unlabelled"]["status"] == "ok"


def test_labels_that_come_first_fail_where_the_model_is_wrong_about_them_whatever_the_others_will_be(shop: Shop) -> None:
    features, labels = rows(1000, 79)
    write_first_class_first(shop.folder / "wrong.csv", -features, labels)
    harm = shop.monitored("wrong.csv", run_name="wrong")["checks"]["harm"]
    assert harm["status"] == "fail"
    assert "accuracy has fallen" in harm["message"]


def test_more_rows_of_a_class_than_a_window_of_the_reference_has_are_a_drift_whatever_is_to_come(shop: Shop) -> None:
    features, labels = rows(1000, 79)
    kept = (labels == 0) | (np.arange(1000) % 10 == 0)
    write_first_class_first(shop.folder / "many.csv", features[kept], labels[kept])
    assert shop.monitored("many.csv", run_name="many")["checks"]["drift[labels]"]["status"] == "fail"


def test_answers_of_another_model_are_no_drift_of_the_data(shop: Shop) -> None:
    found = shop.monitored("clean.csv", run_name="untrained", weights=None)
    outputs = found["checks"]["drift[outputs]"]
    assert outputs["status"] == "warn", "nobody drifted: the model was replaced"
    assert outputs["message"].startswith("the model has other weights than the one that the reference was profiled with")
    assert found["checks"]["harm"]["status"] == "fail"
    assert "the model has other weights than" in found["checks"]["harm"]["message"]
    assert "other weights" not in found["checks"]["drift[inputs]"]["message"]


def test_a_file_that_is_sent_for_two_nights_is_named(shop: Shop) -> None:
    write(shop.folder / "again.csv", *rows(300, 79))
    config = shop.config("again.csv", run_name="again")
    first, *later = (monitor_config(config, time=datetime(2026, 11, day, 2)) for day in (2, 3, 3))
    assert first.data["checks"]["drift[inputs]"]["status"] == "ok"
    for found in later:  # the second night, and that night once more
        said = found.data["checks"]["drift[inputs]"]
        assert said["message"].startswith("the rows are those of the window of 2026-11-02 02:00: was an old file sent again?")
        assert said["status"] == "warn"


def test_the_report_draws_the_series_of_what_is_beyond_its_limit(shop: Shop, nights: list[dict[str, Any]]) -> None:
    config = shop.config("night4.csv", run_name="nightly")
    evidence = judge_monitoring("drift", monitor_of(config, model_source(config).build(0)), "inputs")
    (plot,) = [plot for plot in evidence.details["plots"] if plot["kind"] == "series"]
    assert plot["title"] == "age: KS D over 5 windows"
    (drawn,) = distributions_of({"plots": [plot]})
    assert isinstance(drawn.chart, LineChart)
    assert [len(line.y) for line in drawn.chart.lines] == [5, 5]
    assert drawn.pairs[-1].current > drawn.pairs[-1].reference == 0.1


def test_earlier_windows_are_a_reference_that_moves(shop: Shop) -> None:
    """The third night is as the second, which is not as the reference was."""
    for night in range(3):
        write(shop.folder / f"moving{night}.csv", *rows(600, 200 + night, move=0.5 if night else 0.0))
    statuses, messages = [], []
    for night in range(3):
        config = shop.config(f"moving{night}.csv", run_name="moving", reference_windows={"last": 1})
        found = monitor_config(config, time=datetime(2026, 11, 2 + night, 2)).data
        statuses.append("age" in found["drift"]["drifted"] + found["drift"]["changed"])
        messages.append(found["checks"]["drift[inputs]"]["message"])
    assert statuses == [False, True, False]
    assert ["the reference is 1 earlier window" in message for message in messages] == [False, True, True]
    weekly = shop.config("moving2.csv", run_name="moving", reference_windows={"last": 4, "same": "weekday"})
    message = monitor_config(weekly, time=datetime(2026, 11, 9, 2)).data["checks"]["drift[inputs]"]["message"]
    assert "the reference is 1 earlier window of the same weekday" in message


def write_regions(path: Path, seed: int, wrong: bool = False, move: float = 0.0) -> None:
    """Rows of three regions, in turn; those of the west moved, or half of them with the wrong label."""
    features, labels = rows(1200, seed)
    place = np.arange(1200)
    features[place % 3 == 2, 2] += move
    labels = np.where(wrong & (place % 6 == 2), 1 - labels, labels)
    lines = [
        f"{','.join(f'{value:.5f}' for value in row)},{('north', 'south', 'west')[number % 3]},{label}"
        for number, (row, label) in enumerate(zip(features, labels, strict=True))
    ]
    path.write_text("\n".join([",".join((*COLUMNS, "region", "label")), *lines]) + "\n", encoding="utf-8")


def write_dated(path: Path, nights: int, size: int, seed: int) -> None:
    """Rows of nights: of each night the first column is moved a little, and the label follows it."""
    rng = np.random.default_rng(seed)
    lines = [",".join([*COLUMNS, "night", "label"])]
    for number in range(nights):
        features, labels = rows(size, seed + number, move=float(rng.normal(0, 0.3)))
        lines += [
            f"{','.join(f'{value:.4f}' for value in row)},2026-10-{1 + number:02},{label}"
            for row, label in zip(features, labels, strict=True)
        ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_nights_are_judged_by_how_far_those_of_the_reference_differ(shop: Shop) -> None:
    write_dated(shop.folder / "dated.csv", 15, 120, 100)
    profile = {"eval": {"path": "dated.csv", "windows": "night"}, "weights": None}
    profile_config(shop.config("dated.csv", **profile), shop.database, name="dated")
    said = {}
    for move in (0.45, 3.0):
        write(shop.folder / "night.csv", rows(300, 9, move=move)[0], None)
        said[move] = shop.monitored("night.csv", reference_profile_id="dated")["checks"]["drift[inputs]"]
    assert said[0.45]["status"] == "ok", said[0.45]
    assert "no further off than usual (15 days of the reference)" in said[0.45]["message"]
    assert said[3.0]["status"] == "fail"
    assert "in 15 days of the reference" in said[3.0]["message"]


def test_without_windows_of_a_reference_the_first_ones_that_are_compared_show_what_is_usual(shop: Shop) -> None:
    write_dated(shop.folder / "plain.csv", 1, 2000, 300)
    profile_config(
        shop.config("plain.csv", eval={"path": "plain.csv", "without": ["night"]}, weights=None), shop.database, name="plain"
    )
    rng, found = np.random.default_rng(8), []
    for night in range(12):
        move = 3.0 if night == 11 else float(rng.normal(0, 0.3))
        write(shop.folder / "night.csv", rows(200, 400 + night, move=move)[0], None)
        config = shop.config("night.csv", reference_profile_id="plain", run_name="plain")
        found.append(monitor_config(config, time=datetime(2026, 11, 1 + night, 2)).data["checks"]["drift[inputs]"])
    first = next(each for each in found if each["status"] == "fail")
    assert "judged by chance within the window only" in first["message"]
    assert "or wait for 10 windows (this is number" in first["message"]
    assert found[10]["status"] != "fail", found[10]
    assert found[11]["status"] == "fail"
    assert "in the first 11 windows" in found[11]["message"]


def test_a_slice_that_drifts_warns_though_the_whole_has_not(shop: Shop) -> None:
    write_regions(shop.folder / "regions_before.csv", 41)
    write_regions(shop.folder / "regions_same.csv", 42)
    write_regions(shop.folder / "regions_moved.csv", 43, move=0.5)
    place = {"path": "regions_before.csv", "slices": ["region"]}
    before = profile_config(shop.config("", eval=place), shop.database).data["reference_profile_id"]

    def inputs(file: str) -> dict[str, Any]:
        found = shop.monitored("", eval={**place, "path": file}, reference_profile_id=before, drift_floors={"ks": 0.15})
        check: dict[str, Any] = found["checks"]["drift[inputs]"]
        return check

    assert inputs("regions_same.csv")["status"] == "ok"
    moved = inputs("regions_moved.csv")
    assert moved["status"] == "warn"
    assert "in region=west `visits` has drifted: KS D = 0.2" in moved["message"]
    assert "tests and 3 slices" in moved["message"]


def test_a_slice_that_is_surely_below_the_threshold_warns_though_the_whole_is_above(shop: Shop) -> None:
    write_regions(shop.folder / "regions.csv", 31, wrong=True)
    place = {"path": "regions.csv", "slices": ["region"]}
    found = shop.monitored("", eval=place, thresholds={"accuracy": 0.7})["checks"]["evaluation"]
    assert found["status"] == "warn"
    assert found["message"].startswith("in region=west accuracy is 50.0%")
    assert "on 400 rows, surely below the threshold 0.7 (p < 0.0001 adjusted for 3 slices)" in found["message"]
    assert shop.monitored("", eval=place, thresholds={"accuracy": 0.3})["checks"]["evaluation"]["status"] == "ok"


@pytest.fixture(scope="module")
def kept(shop: Shop) -> dict[str, Any]:
    """The keys of a config whose reference keeps its parts and some rows."""
    write(shop.folder / "kept.csv", *rows(2500, 51))
    keys = {"eval": {"path": "kept.csv", "slices": ["*"]}, "margins": {"harm": 0.12}}
    found = profile_config(shop.config("", **keys), shop.database, familiarity=False, joint=True)
    return {**keys, "reference_profile_id": found.data["reference_profile_id"]}


def checks_of(shop: Shop, kept: dict[str, Any], file: str, features: np.ndarray, labels: np.ndarray | None) -> dict[str, Any]:
    write(shop.folder / file, features, labels)
    found: dict[str, Any] = shop.monitored("", **{**kept, "eval": {"path": file, "slices": ["*"]}})["checks"]
    return found


def test_a_window_that_is_like_its_reference_has_no_part_that_lost_and_no_joint_drift(shop: Shop, kept: dict[str, Any]) -> None:
    checks = checks_of(shop, kept, "same.csv", *rows(1500, 54))
    assert [checks[name]["status"] for name in ("harm", "drift[inputs]")] == ["ok", "ok"]
    assert " slice" not in checks["harm"]["message"]


def test_the_part_in_which_the_model_got_worse_is_found_without_being_named(shop: Shop, kept: dict[str, Any]) -> None:
    """Rows of high `visits` and `income` have wrong labels; a twelfth of all, so that the whole is within its margin."""
    features, labels = rows(1500, 52)
    hurt = (features[:, 2] > 0.7) & (features[:, 1] > 0.3)
    harm = checks_of(shop, kept, "hurt.csv", features, np.where(hurt, 1 - labels, labels))["harm"]
    assert harm["status"] == "warn"
    assert "in income=above 0.6" in harm["message"]
    assert "slices), and in " in harm["message"]


@pytest.mark.parametrize(("labelled", "status"), [(True, "warn"), (False, "fail")])
def test_columns_that_go_together_otherwise_are_found_though_none_drifted(
    shop: Shop, kept: dict[str, Any], labelled: bool, status: str
) -> None:
    """Labels show that the model is as good as it was; without them nothing does."""
    features, _ = rows(1500, 61)
    features[:, 2] = 0.9 * features[:, 0] + 0.44 * features[:, 2]
    labels = (features[:, 0] + features[:, 1] > 0).astype(np.int64)
    inputs = checks_of(shop, kept, f"joint{labelled}.csv", features, labels if labelled else None)["drift[inputs]"]
    assert inputs["status"] == status
    assert inputs["message"].startswith("the rows as a whole have drifted: a classifier tells them from the reference's with AUC")
    assert "most of all `age`, `visits` go together otherwise; no drift found in" in inputs["message"]


def write_orders(
    path: Path, seed: int, cities: str = "AAB", note: str = "fine", columns: tuple[str, ...] = ("city", "when", "note")
) -> None:
    """Rows with a city, a day and a text, which the model does not read."""
    features, labels = rows(600, seed)
    rng = np.random.default_rng(seed)
    lines = []
    for place, (row, label) in enumerate(zip(features, labels, strict=True)):
        said = {
            "city": rng.choice(list(cities)),
            "when": f"2026-01-{1 + place % 28:02d}",
            "note": f"{note} {rng.integers(10**6)}",
        }
        lines.append(",".join([*(f"{value:.5f}" for value in row), *(str(said[name]) for name in columns), str(label)]))
    path.write_text("\n".join([",".join((*COLUMNS, *columns, "label")), *lines]) + "\n", encoding="utf-8")


def test_columns_that_the_model_does_not_read_are_compared_too(shop: Shop) -> None:
    write_orders(shop.folder / "orders_before.csv", 71)
    write_orders(shop.folder / "orders_same.csv", 72)
    write_orders(shop.folder / "orders_moved.csv", 73, cities="ABB", note="it came late and was broken")
    write_orders(shop.folder / "orders_gone.csv", 74, columns=("when", "note"))
    place = {"path": "orders_before.csv", "also": ["city", "when", "note"]}
    before = profile_config(shop.config("", eval=place), shop.database, familiarity=False)
    keys = {"reference_profile_id": before.data["reference_profile_id"]}

    def inputs(file: str) -> dict[str, Any]:
        found = shop.monitored(file, **keys)
        return {"named": found["drift"]["named"], **found["checks"]["drift[inputs]"]}

    assert inputs("orders_same.csv")["status"] == "ok"
    moved = inputs("orders_moved.csv")
    assert moved["status"] == "warn", "the accuracy holds"
    assert set(moved["named"]) == {"city", "note.length", "note.digits"}
    assert "`city`" in inputs("orders_gone.csv")["message"]
    with pytest.raises(DataError, match="no column 'citty'"):
        profile_config(shop.config("", eval={**place, "also": ["citty"]}), shop.database)
    with pytest.raises(DataError, match="the model reads `age`"):
        profile_config(shop.config("", eval={**place, "also": ["city", "when", "note", "age"]}), shop.database)


def test_they_are_no_features_of_the_training_data_either(shop: Shop) -> None:
    for name, seed in (("orders_learnt.csv", 75), ("orders_new.csv", 76)):
        write_orders(shop.folder / name, seed)
    place = {"path": "orders_new.csv", "also": ["city", "when", "note"]}
    config = shop.config("", train={"path": "orders_learnt.csv"}, eval=place)
    assert example_maker(config)(config.task_spec(), Sizes(batch=4), 0)["features"].shape == (4, 3)


def test_floors_of_single_features_come_from_the_config(shop: Shop) -> None:
    def floors(**own: float) -> dict[str, Any]:
        return shop.monitored("clean.csv", drift_floors={"features": {"age": own}})

    ages = [one for one in floors(deviations=0.5)["drift"]["features"] if one["feature"] == "age"]
    assert ages[0]["differences"][0]["effect"]["floor"] == pytest.approx(0.1974, abs=1e-4)
    with pytest.raises(ConfigError, match=r"`drift_floors`: `age`: a share of the rows is at most 1, got 5: write 0\.05 for 5%"):
        floors(share=5.0)


def test_the_run_itself_as_baseline_is_no_worse(monitored: Monitored) -> None:
    found = monitored("eval.csv", baseline_run_id="shop-1")
    assert found["comparison"]["status"] == "ok"
    assert found["comparison"]["metrics"]["correct"]["is_same"]


def test_a_worse_candidate_fails_and_its_slice_is_named(shop: Shop) -> None:
    source = (shop.folder / "model.py").read_text()
    worse = source.replace("torch.tanh(self.first(features))", "torch.tanh(self.first(features.clamp(max=0.3)))")
    (shop.folder / "worse.py").write_text(worse)
    found = shop.monitored("eval.csv", model_file="worse.py", baseline_run_id=PRODUCTION, reference_profile_id=None)
    assert found["comparison"]["status"] == found["status"] == "fail"
    assert "accuracy fell" in found["checks"]["baseline_regression"]["message"]
    with ExperimentDB(shop.database) as db:
        assert db.list_runs(name="monitor-", limit=1) is not None
        assert db.get_comparisons(shop.run_id)


@pytest.mark.parametrize("data", ["clean.csv", "unlabelled.csv"])
def test_new_rows_are_judged_and_the_baseline_compared_on_its_own(monitored: Monitored, data: str) -> None:
    found = monitored(data, baseline_run_id=PRODUCTION)
    comparison = found["checks"]["baseline_regression"]
    assert (comparison["status"], found["status"]) == ("ok", "ok")
    assert "compared on the rows that the baseline was scored on (eval.csv), because the data is new" in comparison["message"]
    assert found["comparison"]["metrics"]["correct"]["samples"] == 2000
    assert not found["comparison"]["is_same_data"]
    assert found["drift"]["status"] == found["harm"]["status"] == "ok"


def test_drift_and_harm_of_new_rows_fail_though_the_baseline_holds(monitored: Monitored) -> None:
    found = monitored("flipped.csv", baseline_run_id=PRODUCTION)
    assert found["checks"]["baseline_regression"]["status"] == "ok"
    assert found["checks"]["harm"]["status"] == found["status"] == "fail"


def test_a_worse_candidate_fails_on_the_baselines_rows_while_it_meets_new_ones(shop: Shop) -> None:
    (shop.folder / "worse_too.py").write_text(
        (shop.folder / "model.py").read_text().replace("self.first(features)", "self.first(features.clamp(max=0.3))")
    )
    found = shop.monitored("clean.csv", model_file="worse_too.py", baseline_run_id=PRODUCTION, reference_profile_id=None)
    assert found["comparison"]["status"] == found["status"] == "fail"


@pytest.mark.parametrize("loss", ["gone", "changed"])
def test_a_baseline_whose_rows_are_not_at_hand_warns_and_the_rest_is_judged(shop: Shop, loss: str) -> None:
    rows_of_baseline = shop.folder / "eval.csv"
    kept = rows_of_baseline.read_text()
    try:
        if loss == "gone":
            rows_of_baseline.unlink()
        else:
            write(rows_of_baseline, *rows(2000, 22))
        found = shop.monitored("clean.csv", baseline_run_id=PRODUCTION)
        harmed = shop.monitored("flipped.csv", baseline_run_id=PRODUCTION)
    finally:
        rows_of_baseline.write_text(kept)
    check = found["checks"]["baseline_regression"]
    assert (check["status"], found["status"], found["comparison"]) == ("warn", "warn", None)
    assert "its scores are of eval.csv" in check["message"]
    assert ("no such file" if loss == "gone" else "has other rows now") in check["message"]
    assert found["drift"]["status"] == found["harm"]["status"] == "ok"
    assert harmed["status"] == "fail"


def test_a_run_of_monitoring_is_a_baseline_too(shop: Shop) -> None:
    """Its scores are of the first baseline's rows, and not of the data that its config names."""
    first = shop.monitored("clean.csv", baseline_run_id=PRODUCTION, run_name="nightly")
    second = shop.monitored("shifted.csv", baseline_run_id="nightly-monitoring", run_name="later")
    for found in (first, second):
        assert found["checks"]["baseline_regression"]["status"] == "ok"
        assert found["comparison"]["metrics"]["correct"]["samples"] == 2000


def test_a_run_made_in_python_is_a_baseline_for_new_rows(shop: Shop, tmp_path: Path) -> None:
    config = shop.config("clean.csv")
    task, model = config.task_spec(), model_source(config).build(0)
    data = {"train_cfg": EvalConfig(path="train.csv"), "folder": shop.folder}
    with ExperimentDB(tmp_path / "runs.db") as db:
        keys = TrainingConfig(epochs=1, checkpoint_dir=str(tmp_path / "checkpoints"))
        trained = run_training(model, None, keys, task, EvalConfig(path="eval.csv"), db=db, progress=False, **data)
        found = run_tier5_monitoring(
            model, None, task, EvalConfig(path="clean.csv"), db=db, baseline_run_id=trained["run_id"], **data
        )
    assert found["checks"]["baseline_regression"]["status"] == "ok"
    assert found["comparison"]["metrics"]["correct"]["samples"] == 2000


def test_the_same_file_with_other_content_is_another_set(shop: Shop, tmp_path: Path) -> None:
    task, data = shop.config("eval.csv").task_spec(), EvalConfig(path=str(tmp_path / "rows.csv"))
    ids = []
    for seed in (1, 1, 2):
        write(tmp_path / "rows.csv", *rows(50, seed))
        ids.append(dataset_id(open_window(task, data)))
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize(("bounds", "status"), [({"accuracy": 0.9, "loss": 1.0}, "ok"), ({"accuracy": 0.999}, "fail")])
def test_thresholds(monitored: Monitored, bounds: dict[str, float], status: str) -> None:
    found = monitored("clean.csv", thresholds=bounds)["checks"]["evaluation"]
    assert found["status"] == status
    if status == "fail":
        assert "below the threshold 0.999 (95% interval " in found["message"]
        assert found["message"].endswith("), on 1,000 rows of clean.csv")


def test_a_threshold_on_a_metric_of_its_own_is_measured_and_a_wrong_name_is_said(monitored: Monitored) -> None:
    found = monitored("clean.csv", metrics=["loss"], thresholds={"roc_auc": 0.9})
    assert list(found["eval_metrics"]) == ["loss", "roc_auc"]
    with pytest.raises(ConfigError, match=r"no metric 'acuracy'\. Did you mean 'accuracy'"):
        monitored("clean.csv", thresholds={"acuracy": 0.9})


def test_what_does_not_exist_is_said_in_one_line(shop: Shop, tmp_path: Path) -> None:
    with pytest.raises(UnknownRunError, match="Did you mean 'production'"):
        shop.monitored("clean.csv", reference_profile_id="produktion")
    with pytest.raises(UnknownRunError, match="Did you mean 'production'"):
        shop.monitored("eval.csv", baseline_run_id="prodution")
    with pytest.raises(ExperimentError, match="no such database"):
        shop.monitored("clean.csv", db_path=str(tmp_path / "gone.db"))
    with pytest.raises(DataError, match="no such file"):
        shop.monitored("gone.csv")
    with ExperimentDB(shop.database) as db, db.start_run("bare") as run:
        pass
    with pytest.raises(ExperimentError, match="has no profile"):
        shop.monitored("clean.csv", reference_profile_id=run.id)
    with pytest.raises(UserError, match="no per-sample scores"):
        shop.monitored("eval.csv", baseline_run_id=run.id)


def test_a_window_of_one_row_cannot_tell(shop: Shop, monitored: Monitored) -> None:
    write(shop.folder / "one.csv", *rows(1, 10))
    found = monitored("one.csv")
    assert found["status"] == "ok"
    assert "cannot tell" in found["checks"]["drift[inputs]"]["message"]
    asked = monitored("one.csv", min_power=0.5)
    assert {name for name, check in asked["checks"].items() if check["status"] == "warn"} == {"drift[inputs]", "harm"}


def test_an_empty_window_is_said(shop: Shop) -> None:
    (shop.folder / "empty.csv").write_text("age,income,visits,label\n", encoding="utf-8")
    with pytest.raises(DataError, match="no rows"):
        shop.monitored("empty.csv")


def test_a_column_of_another_name_is_gone(shop: Shop) -> None:
    features, labels = rows(100, 11)
    write(shop.folder / "other.csv", features, labels)
    text = (shop.folder / "other.csv").read_text().replace("income", "salary", 1)
    (shop.folder / "other.csv").write_text(text, encoding="utf-8")
    found = shop.monitored("other.csv")
    assert found["checks"]["drift[inputs]"]["status"] == "fail"
    message = found["checks"]["drift[inputs]"]["message"]
    assert message.startswith("the column `income` is gone or empty (new: `salary`): ")
    assert "missing values of `income`" in message


def test_the_command_prints_one_object_and_gates(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    config = shop.config("flipped.csv").path
    assert main(["monitor", "--config", str(config), "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert {"eval_metrics", "comparison", "drift", "status"} <= answer.keys()
    assert main(["monitor", "--config", str(shop.config("clean.csv").path)]) == 0
    assert capsys.readouterr().out.rstrip().endswith("status: ok")
    assert main(["monitor", "--config", str(shop.config("shifted.csv").path), "--strict"]) == 1
    assert main(["monitor", "--config", str(config), "--reference", "nobody"]) == 2
    assert "nobody" in capsys.readouterr().err


def test_runs_of_monitoring_do_not_take_the_baselines_name(shop: Shop) -> None:
    for _ in range(2):
        found = shop.monitored("eval.csv", baseline_run_id="shop-1", run_name="shop-1", reference_profile_id=None)
        assert found["comparison"]["metrics"]["correct"]["is_same"]
    with ExperimentDB(shop.database) as db:
        assert db.resolve("shop-1") == shop.run_id
        kept = [comparison for comparison in db.get_comparisons(shop.run_id) if comparison.metric == "correct"]
        assert len({comparison.result["gate"]["look"] for comparison in kept[-2:]}) == 1  # the same scores spend no more of alpha


def test_the_same_in_one_call(shop: Shop) -> None:
    config = shop.config("clean.csv")
    model = model_source(config).build(0)
    found = run_tier5_monitoring(
        model,
        None,
        config.task_spec(),
        config.eval,
        db=shop.database,
        reference_profile_id=PRODUCTION,
        train_cfg=config.train,
        folder=shop.folder,
        limits=Limits(thresholds={"accuracy": 0.5}),
    )
    assert found["status"] == "ok"
    assert found["eval_metrics"] == shop.monitored("clean.csv")["eval_metrics"]
    with ExperimentDB(shop.database) as db:
        again = run_tier5_monitoring(
            model, None, config.task_spec(), config.eval, db=db, reference_profile_id=shop.run_id, folder=shop.folder
        )
        assert db.get_names()[PRODUCTION] == shop.run_id  # the caller's database stays open
    assert again["drift"]["status"] == "ok"


def test_the_rows_nearest_to_the_shift_are_named(shop: Shop, monitored: Monitored) -> None:
    config = shop.config("shifted.csv")
    monitor = monitor_of(config, model_source(config).build(0))
    evidence = judge_monitoring("drift", monitor, "inputs")
    assert "; the rows that shifted most are " in evidence.message
    features, _ = rows(1000, 4, move=0.6)
    assert features[[row["index"] for row in evidence.details["nearest"]], 0].min() > 0.6
    assert [plot["feature"] for plot in evidence.details["plots"]] == ["age"]


def test_data_without_labels_is_no_collection_error(shop: Shop) -> None:
    example_maker(shop.config("unlabelled.csv"))


def test_accuracy_is_estimated_by_familiar_rows_unless_they_may_not_be_kept(shop: Shop, monitored: Monitored) -> None:
    answer = profile_config(shop.config("eval.csv"), shop.database, familiarity=False)
    assert "accuracy is estimated by the model's confidence" in answer.text
    run = answer.data["reference_profile_id"]
    with ExperimentDB(shop.database) as db:
        by_confidence, by_default = load_reference(db, run), load_reference(db, PRODUCTION)
    assert by_confidence.familiarity is None
    assert by_default.familiarity is not None
    assert len(by_default.familiarity.known) == 600
    truth = monitored("shifted.csv")["eval_metrics"]["accuracy"]
    for found in (shop.monitored("shifted_unlabelled.csv", reference_profile_id=run), monitored("shifted_unlabelled.csv")):
        low, high = found["harm"]["interval"]
        assert low <= truth <= high
        assert "estimated without labels (its error was measured on 8 kinds" in found["harm"]["message"]


def test_familiarity_of_texts_is_refused() -> None:
    config = load_config(Path(__file__).parent.parent.parent / "examples" / "lm_tiny_monitoring.json")
    with pytest.raises(ConfigError, match="needs images or a table"):
        profile_config(config, familiarity=True)


@pytest.mark.parametrize(("feature", "floor"), [("ks", 0.01), ("ks", 0.9), ("cramers_v", 0.9)])
def test_each_floor_of_a_config_is_one_that_the_command_goes_by(shop: Shop, feature: str, floor: float) -> None:
    found = shop.monitored("clean.csv", drift_floors={feature: floor})
    used = {
        difference["effect"]["floor"]
        for one in found["drift"]["features"]
        for difference in one["differences"]
        if difference["effect"]["name"] == {"ks": "KS D", "cramers_v": "Cramér's V"}[feature]
    }
    assert used == {floor}
    assert {*DriftFloors.model_fields} == {"ks", "cramers_v", "features"}, "floors of features have their own test"


NAMES = np.array(["good", "bad", "late"])


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """A model of three classes that have names, and windows that hold some of them; its configs name no training data."""
    folder = tmp_path_factory.mktemp("named")
    (folder / "model.py").write_text(NAMED_MODEL, encoding="utf-8")
    keys = {"task_type": "tabular_classification", "num_features": 3, "num_classes": 3, "model_file": "model.py"}
    for name, seed, kept in (("train", 1, NAMES), ("eval", 2, NAMES), ("all", 3, NAMES), ("lacking", 4, NAMES[[0, 2]])):
        features, labels = named_rows(900, seed)
        chosen = np.isin(labels, kept)
        write(folder / f"{name}.csv", features[chosen], labels[chosen])
    features, labels = named_rows(900, 5)
    write(folder / "partly.csv", features, np.where(np.arange(900) % 3 == 0, labels, ""))
    write(folder / "empty.csv", features, np.full(900, ""))
    write(folder / "new.csv", features, np.where(np.arange(900) % 9 == 0, "lost", labels))
    write(folder / "other.csv", features, np.where(labels == "bad", "worst", "best"))
    data = {"train": {"path": "train.csv"}, "eval": {"path": "eval.csv"}}
    config = folder / "train.json"
    training = {"epochs": 6, "batch_size": 16, "learning_rate": 0.02, "log_to_db": True, "run_name": "named"}
    config.write_text(json.dumps({**keys, **training, **data}), encoding="utf-8")
    results = train_config(load_config(config), progress=False)
    profile_config(load_config(config), run=results["run_id"], name=PRODUCTION)
    return Shop(folder, results["run_id"], Path(results["best_checkpoint"]))


NAMED_MODEL = MODEL.replace("nn.Linear(16, 2)", "nn.Linear(16, 3)")


def named_rows(n: int, seed: int) -> tuple[Any, Any]:
    """Features ``[n, 3]``, and the name of the class, which is that of the largest; class ids go by the alphabet."""
    features = np.random.default_rng(seed).standard_normal((n, 3))
    return features, NAMES[features.argmax(axis=1)]


def watched(named: Shop, data: str, **keys: Any) -> dict[str, Any]:
    return named.monitored(data, num_classes=3, train=None, **keys)


@pytest.mark.parametrize("loss", ["nothing", "the training data"])
def test_a_window_that_lacks_a_class_is_read_with_the_references_classes(named: Shop, loss: str) -> None:
    """Read by itself, it would call `good` class 0, which is `bad` in the reference."""
    train, away = named.folder / "train.csv", named.folder / "away.csv"
    if loss != "nothing":
        train.rename(away)
    try:
        found = watched(named, "lacking.csv")
    finally:
        if loss != "nothing":
            away.rename(train)
    assert found["eval_metrics"]["accuracy"] > 0.85
    assert found["harm"]["accuracy"] == pytest.approx(found["eval_metrics"]["accuracy"])
    (label,) = [one for one in found["drift"]["features"] if one["feature"] == "label"]
    assert "'bad' went from" in label["message"]
    assert "to 0.0%" in label["message"]


def test_an_empty_label_column_is_no_class(named: Shop) -> None:
    found = watched(named, "empty.csv")
    assert found["eval_metrics"] is None
    assert {found["checks"][name]["status"] for name in ("evaluation", "drift[labels]", "drift[scores]")} == {"skipped"}
    assert found["drift"]["status"] == found["harm"]["status"] == "ok"


def test_labels_that_some_rows_have_are_measured_there(named: Shop) -> None:
    found = watched(named, "partly.csv")
    assert "on 300 labelled of 900 rows of partly.csv" in found["checks"]["evaluation"]["message"]
    assert found["eval_metrics"]["accuracy"] > 0.85
    assert (found["harm"]["n"], found["harm"]["is_measured"]) == (300, True)
    sizes = {one["feature"]: one["differences"][0]["current_n"] for one in found["drift"]["features"]}
    assert (sizes["age"], sizes["label"], sizes["score.correct"]) == (900, 300, 300)
    assert not [one for one in found["drift"]["features"] if any(d["aspect"] == "missing values" for d in one["differences"])]


def test_a_class_that_the_model_does_not_know_is_a_finding_and_every_answer_to_it_is_wrong(named: Shop) -> None:
    found = watched(named, "new.csv")
    assert "100 rows have a class that the model does not know (`lost`)" in found["checks"]["evaluation"]["message"]
    assert found["eval_metrics"]["accuracy"] == pytest.approx(found["harm"]["accuracy"])
    assert found["harm"]["accuracy"] <= 800 / 900
    (label,) = [one for one in found["drift"]["features"] if one["feature"] == "label"]
    (new,) = [one for one in label["differences"] if one["aspect"] == "new levels"]
    assert new["finding"] == "drifted"
    assert "11.1% of the values are levels that the reference does not have" in new["message"]


def test_a_column_that_is_gone_is_a_finding(shop: Shop) -> None:
    lines = (shop.folder / "clean.csv").read_text(encoding="utf-8").splitlines()
    cut = [",".join([*line.split(",")[:1], *line.split(",")[2:]]) for line in lines]
    (shop.folder / "gone.csv").write_text("\n".join(cut) + "\n", encoding="utf-8")
    found = shop.monitored("gone.csv")
    (income,) = [one for one in found["drift"]["features"] if one["feature"] == "income"]
    assert (income["status"], income["differences"][0]["aspect"]) == ("fail", "missing values")
    red = {name: check["message"] for name, check in found["checks"].items() if check["status"] == "fail"}
    assert set(red) == {"evaluation", "drift[inputs]", "drift[outputs]", "drift[scores]", "harm"}
    assert red.pop("drift[inputs]").startswith("the column `income` is gone or empty: missing values")
    said = "the column `income` is gone or empty, so the model's answers here mean nothing (see drift[inputs]): "
    assert {message[: len(said)] for message in red.values()} == {said}
    unlabelled = [line.rpartition(",")[0] for line in cut]
    (shop.folder / "gone_unlabelled.csv").write_text("\n".join(unlabelled) + "\n", encoding="utf-8")
    harm = shop.monitored("gone_unlabelled.csv")["checks"]["harm"]
    assert (harm["status"], harm["message"][: len(said)]) == ("warn", said)
    assert found["status"] == "fail"
    (shop.folder / "other.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(DataError, match="no column `age`"):
        shop.monitored("other.csv")


def test_columns_that_are_no_features_are_left_out(shop: Shop) -> None:
    lines = (shop.folder / "clean.csv").read_text(encoding="utf-8").splitlines()
    named = ["order,when," + lines[0], *(f"A-{n},2026-02-01,{line}" for n, line in enumerate(lines[1:]))]
    (shop.folder / "orders.csv").write_text("\n".join(named) + "\n", encoding="utf-8")
    data = {"path": "orders.csv", "without": ["order", "when"]}
    found = shop.monitored("orders.csv", train=data, eval=data)
    inputs = {one["feature"] for one in found["drift"]["features"] if not one["feature"].startswith(("output", "score", "label"))}
    assert inputs == set(COLUMNS)
    assert found["checks"]["drift[inputs]"]["status"] == "ok"


def test_the_page_of_a_monitored_model_lists_every_feature(named: Shop) -> None:
    config, page = named.config("lacking.csv", num_classes=3, train=None), named.folder / "page.html"
    data = monitor_config(config, html=page).data
    text = page.read_text(encoding="utf-8")
    assert all(f"<code>{one['feature']}</code>" in text for one in data["drift"]["features"])
    assert data["checks"]["harm"]["message"].split(":")[0] in text


def test_labels_of_other_names_altogether_are_refused(named: Shop) -> None:
    with pytest.raises(DataError, match=r"other.csv:2: `label` '\w+' is not a class. The classes are bad, good, late"):
        watched(named, "other.csv")


def test_classes_are_never_numbered_by_a_window_that_lacks_one(named: Shop) -> None:
    """No training data, no reference, no baseline: nothing says that `good` is class 1."""
    with pytest.raises(DataError, match=r"the labels name 2 of 3 classes \(`good`, `late`\), so that nothing says which numbers"):
        watched(named, "lacking.csv", reference_profile_id=None, thresholds={"accuracy": 0.5})
