"""The split doctor finds what is planted and is silent about what is sound."""

import json

from pulmo.core.bundle import sha256
from pulmo.data.audit import MIN_PER_CLASS, Report, audit
from pulmo.data.manifest import Manifest, Row
from pulmo.data.scan import Unreadable

CLASSES = ("cat", "dog")


def row(path: str, label: str = "cat", split: str = "train", pixels: str = "") -> Row:
    digest = sha256(path.encode())
    return Row(path, label, split, f"pool/{path}", digest, pixels or digest)


SOUND = [
    row(f"{split}-{label}-{i}", label, split)
    for split in ("train", "val", "gate", "test")
    for label in CLASSES
    for i in range(MIN_PER_CLASS)
]


def judged(*more: Row, rows: list[Row] = SOUND, patients: bool = True) -> Report:
    return audit(Manifest("pets", CLASSES, 1, (*rows, *more)), patients=patients)


def told(report: Report) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(f.severity, f.check, f.where) for f in report.findings]


def test_a_sound_data_set_has_no_findings() -> None:
    report = judged()
    assert report.findings == ()
    assert report.errors == ()
    assert report.counts["val"] == {"cat": 10, "dog": 10}


def test_unreadable_files_are_errors_with_their_reason() -> None:
    bad = [Unreadable("a.png", "the picture is damaged")]
    report = audit(Manifest("pets", CLASSES, 1, tuple(SOUND)), unreadable=bad)
    assert told(report) == [("error", "unreadable", ("a.png: the picture is damaged",))]
    assert report.errors == report.findings


def test_an_equal_picture_with_two_labels_is_an_error_wherever_it_lies() -> None:
    report = judged(row("a", "cat", "test", "same"), row("b", "dog", "excluded", "same"))
    assert told(report) == [
        ("error", "label conflict", ("a = b",)),
        ("warning", "excluded", ("b",)),
    ]


def test_duplicates_within_a_split_are_counted_by_group() -> None:
    report = judged(
        *(row(name, pixels="one") for name in "abc"), *(row(n, pixels="2") for n in "de")
    )
    assert told(report) == [("warning", "duplicates", ("a = b = c", "d = e"))]
    assert report.findings[0].message.endswith("within their split: 2")


def test_file_names_that_tell_no_patient_are_counted_where_they_should() -> None:
    stranger = Row("a", "cat", "train", "0123456789abcdef", "s", "p")
    assert told(judged(stranger)) == [("warning", "unknown patient", ("a",))]
    assert judged(stranger, patients=False).findings == ()


def test_a_class_without_training_pictures_is_an_error() -> None:
    rows = [one for one in SOUND if (one.label, one.split) != ("dog", "train")]
    assert told(judged(rows=rows)) == [("error", "no training", ("train",))]


def test_splits_too_small_to_judge_by_are_warned_of_with_their_numbers() -> None:
    rows = [one for one in SOUND if one.path not in ("val-dog-0", "gate-dog-0", "gate-dog-1")]
    (finding,) = judged(rows=rows).findings
    assert (finding.severity, finding.where) == ("warning", ("val", "gate"))
    assert finding.message.endswith("9 in val, 8 in gate")


def test_errors_come_first_and_the_report_is_json() -> None:
    report = audit(
        Manifest("pets", CLASSES, 1, tuple(SOUND)),
        skipped=["notes.txt"],
        unreadable=[Unreadable("a.png", "why")],
    )
    document = json.loads(json.dumps(report.document()))
    assert [finding["severity"] for finding in document["findings"]] == ["error", "warning"]
    assert document["findings"][1]["where"] == ["notes.txt"]
    assert document["digest"] == report.digest
