"""The split doctor finds what is planted and is silent about what is sound."""

import json
from dataclasses import replace
from typing import Any

import pytest

from pulmo.config.schema import DoctorConfig
from pulmo.core.bundle import sha256
from pulmo.data.audit import Evidence, Report, audit
from pulmo.data.looks import Look
from pulmo.data.manifest import Manifest, Row
from pulmo.data.reference import measure
from pulmo.data.scan import Unreadable

CLASSES = ("cat", "dog")
DOCTOR = DoctorConfig()
LOOK = Look(16, 12, "L", 0, brightness=120.0, contrast=40.0, sharpness=20.0)


def row(path: str, label: str = "cat", split: str = "train", pixels: str = "") -> Row:
    digest = sha256(path.encode())
    return Row(path, label, split, f"pool/{path}", digest, pixels or digest)


SOUND = [
    row(f"{split}-{label}-{i}", label, split)
    for split in ("train", "val", "gate", "test")
    for label in CLASSES
    for i in range(DOCTOR.min_per_class)
]


def judged(
    *more: Row, rows: list[Row] = SOUND, doctor: DoctorConfig = DOCTOR, **evidence: Any
) -> Report:
    manifest = Manifest("pets", CLASSES, 1, (*rows, *more))
    return audit(manifest, Evidence(**{"patients": True, **evidence}), doctor)


def told(report: Report) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(f.severity, f.check, f.where) for f in report.findings]


def test_a_sound_data_set_has_no_findings() -> None:
    report = judged(looks={one.path: LOOK for one in SOUND})
    assert report.findings == ()
    assert report.errors == ()
    assert report.counts["val"] == {"cat": 10, "dog": 10}


def test_unreadable_files_are_errors_with_their_reason() -> None:
    report = judged(unreadable=[Unreadable("a.png", "the picture is damaged")])
    assert told(report) == [("error", "unreadable", ("a.png: the picture is damaged",))]
    assert report.errors == report.findings


def test_blank_pictures_are_errors_and_no_duplicates_of_each_other() -> None:
    blank = [row("a", "cat", pixels="b"), row("b", "dog", pixels="b")]
    looks = {one.path: LOOK for one in SOUND} | {"a": replace(LOOK, contrast=2.9)}
    report = judged(*blank, looks=looks | {"b": replace(LOOK, contrast=0.0)})
    assert told(report) == [("error", "blank", ("a", "b"))]
    assert report.findings[0].groups == (("a",), ("b",))


def test_an_equal_picture_with_two_labels_is_an_error_wherever_it_lies() -> None:
    report = judged(row("a", "cat", "test", "same"), row("b", "dog", "excluded", "same"))
    assert told(report) == [
        ("error", "label_conflict", ("a (cat) = b (dog)",)),
        ("warning", "excluded", ("b repeats a of test",)),
    ]
    assert report.findings[0].groups == (("a", "b"),)


def test_a_nearly_equal_picture_with_two_labels_is_an_error_too() -> None:
    report = judged(row("a", "cat", pixels="1"), row("b", "dog", pixels="2"), alike={"2": "1"})
    assert told(report)[0] == ("error", "label_conflict", ("a (cat) = b (dog)",))
    assert told(report)[1] == ("warning", "near_duplicates", ("a = b",))


def test_many_equal_pictures_stand_in_for_others() -> None:
    report = judged(*(row(f"{i}", pixels="same") for i in range(DOCTOR.placeholder)))
    assert [(f.severity, f.check) for f in report.findings] == [
        ("error", "placeholder"),
        ("warning", "duplicates"),
    ]


def test_duplicates_within_a_split_are_counted_by_group() -> None:
    report = judged(
        *(row(name, pixels="one") for name in "abc"), *(row(n, pixels="2") for n in "de")
    )
    assert told(report) == [("warning", "duplicates", ("a = b = c", "d = e"))]
    assert report.findings[0].message.endswith("within their split: 2")


def test_an_excluded_picture_without_a_twin_is_named_alone() -> None:
    assert told(judged(row("a", split="excluded"))) == [("warning", "excluded", ("a",))]


def test_a_patient_in_two_splits_is_an_error() -> None:
    one, other = row("a", split="train"), row("b", split="test")
    leak = [replace(one, patient="all/7"), replace(other, patient="all/7")]
    assert told(judged(*leak)) == [("error", "patient_leak", ("all/7: a (train), b (test)",))]
    assert judged(leak[0], replace(leak[1], split="excluded")).errors == ()


def test_file_names_that_tell_no_patient_are_counted_where_they_should() -> None:
    stranger = Row("a", "cat", "train", "0123456789abcdef", "s", "p")
    assert told(judged(stranger)) == [("warning", "unknown_patient", ("a",))]
    assert judged(stranger, patients=False).findings == ()


def test_a_class_without_training_pictures_is_an_error() -> None:
    rows = [one for one in SOUND if (one.label, one.split) != ("dog", "train")]
    assert told(judged(rows=rows)) == [("error", "no_training", ("train",))]


def test_splits_too_small_to_judge_by_are_warned_of_with_their_numbers() -> None:
    rows = [one for one in SOUND if one.path not in ("val-dog-0", "gate-dog-0", "gate-dog-1")]
    (finding,) = judged(rows=rows).findings
    assert (finding.severity, finding.where) == ("warning", ("val", "gate"))
    assert finding.message.endswith("9 in val, 8 in gate")


@pytest.mark.parametrize(
    ("severity", "findings"), [("error", [("error", "skipped")]), ("ignore", [])]
)
def test_severity_is_a_choice(severity: str, findings: list[tuple[str, str]]) -> None:
    doctor = DoctorConfig.model_validate({"severity": {"skipped": severity}})
    report = judged(skipped=["notes.txt"], doctor=doctor)
    assert [(f.severity, f.check) for f in report.findings] == findings


def test_what_looks_unlike_the_reference_is_told_measure_by_measure() -> None:
    looks = {one.path: LOOK for one in SOUND}
    reference = measure(Manifest("pets", CLASSES, 1, tuple(SOUND)), looks)
    assert judged(looks=looks, reference=reference).findings == ()
    darker = {path: replace(look, brightness=60.0, mode="RGB") for path, look in looks.items()}
    (finding,) = judged(looks=darker, reference=reference).findings
    assert (finding.severity, finding.check) == ("warning", "drift")
    assert finding.where == ("kinds of files: 1.00", "brightness: 1.00")


def test_class_counts_are_held_against_another_data_set() -> None:
    other = Manifest("pets", CLASSES, 1, tuple(SOUND))
    assert judged(against=other).findings == ()
    (finding,) = judged(row("new", "dog"), against=other).findings
    assert finding.check == "counts"
    assert finding.where == ("train dog: 11 now, 10 before (+1)",)


def test_errors_come_first_and_the_report_is_json() -> None:
    report = judged(skipped=["notes.txt"], unreadable=[Unreadable("a.png", "why")])
    document = json.loads(json.dumps(report.document()))
    assert [finding["severity"] for finding in document["findings"]] == ["error", "warning"]
    assert document["findings"][1]["where"] == ["notes.txt"]
    assert document["digest"] == report.digest
