"""What counts as passed: only a required test that ran and did not complain."""

import json
from datetime import UTC, datetime
from pathlib import Path

from pulmo.core.ports import Check, Verdict, Version
from pulmo.jobs.verdict import read_junit, write_reports

JUNIT = """<?xml version="1.0"?><testsuites><testsuite>
<testcase classname="a" name="test_good"><properties>
  <property name="detail" value="AUROC 0.98"/></properties></testcase>
<testcase name="test_bad"><failure message="AssertionError: too low&#10;more">x</failure>
</testcase>
<testcase classname="a" name="test_crashed"><error message="boom">x</error></testcase>
<testcase classname="a" name="test_skipped"><skipped message="no data">x</skipped></testcase>
<testcase classname="a" name="test_many[one]"/>
<testcase classname="a" name="test_many[two]"><failure message="two">x</failure></testcase>
</testsuite></testsuites>"""


def read(tmp_path: Path, text: str, *required: str) -> dict[str, list[Check]]:
    path = tmp_path / "junit.xml"
    path.write_text(text, encoding="utf-8")
    found: dict[str, list[Check]] = {}
    for check in read_junit(path, required):
        found.setdefault(check.name, []).append(check)
    return found


def test_a_test_that_ran_and_passed_is_a_yes_with_its_detail(tmp_path: Path) -> None:
    assert read(tmp_path, JUNIT)["test_good"] == [Check("test_good", True, "AUROC 0.98")]


def test_failed_crashed_and_skipped_tests_are_a_no_with_their_reason(tmp_path: Path) -> None:
    found = read(tmp_path, JUNIT)
    assert found["test_bad"] == [Check("test_bad", False, "too low")]
    assert found["test_crashed"] == [Check("test_crashed", False, "boom")]
    assert found["test_skipped"] == [Check("test_skipped", False, "no data")]


def test_one_failed_case_of_many_is_a_no(tmp_path: Path) -> None:
    assert [check.passed for check in read(tmp_path, JUNIT)["test_many"]] == [True, False]


def test_a_required_test_that_did_not_run_is_a_no(tmp_path: Path) -> None:
    found = read(tmp_path, JUNIT, "test_good", "test_absent")
    assert found["test_absent"] == [Check("test_absent", False, "the test did not run")]
    assert len(found["test_good"]) == 1


def test_without_a_report_every_required_test_is_a_no(tmp_path: Path) -> None:
    assert [c.passed for c in read_junit(tmp_path / "none.xml", ["a", "b"])] == [False, False]
    assert read(tmp_path, "<torn", "a")["a"][0].passed is False


def test_reports_name_model_champion_and_every_check(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    version = Version("lungs", 4, "a" * 64, "b" * 64, 0.9, "auroc", now, "ann")
    verdict = Verdict(
        "lungs", "a" * 64, "c" * 64, None, False, [Check("test_x", False, "0.1 | 0.2")], "d" * 64, 7
    )
    write_reports(tmp_path, version, None, verdict)
    document = json.loads((tmp_path / "verdict.json").read_text(encoding="utf-8"))
    assert document["model"] == "lungs:v4"
    assert document["verdict"] == 7
    assert document["checks"] == [{"name": "test_x", "passed": False, "detail": "0.1 | 0.2"}]
    text = (tmp_path / "verdict.md").read_text(encoding="utf-8")
    assert "lungs:v4 was refused, without a champion" in text
    assert "| test_x | **no** | 0.1 \\| 0.2 |" in text
