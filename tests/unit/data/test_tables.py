"""A table of pictures is read as it is described, or refused with its line."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pulmo.config.schema import DataConfig
from pulmo.data.collection import Collection, Found
from pulmo.data.sources import collect
from pulmo.data.tables import between
from pulmo.errors import ConfigError, DataError

Configure = Callable[..., DataConfig]
Read = Callable[..., Collection]


@pytest.fixture
def read(tmp_path: Path, configure: Configure) -> Read:
    """`read(text, …)` collects what a table with this text lists."""

    def make(text: str, **changes: object) -> Collection:
        (tmp_path / "list.csv").write_text(text, encoding="utf-8")
        config = configure(source="csv", table=str(tmp_path / "list.csv"), **changes)
        return collect(config, tmp_path / "data")

    return make


def test_path_and_label_are_enough(read: Read, tmp_path: Path) -> None:
    found = read("path,label\nx/a.png,cat\nb.png,dog\n\n")
    assert found.root == tmp_path
    assert found.classes == ("cat", "dog")
    assert found.files == (Found("x/a.png", "cat", "pool"), Found("b.png", "dog", "pool"))


def test_split_patient_and_further_columns_are_kept(read: Read) -> None:
    found = read(
        "\ufeffpath,label,split,patient,view,age\n"
        'a.png,cat,TRAIN,7,PA,12\nb.png,dog,,,"A,P",\nc.png,dog,holdout,8,PA,80\n',
        splits={"official": {"holdout": "test"}},
        columns={"bins": {"age": [18, 65]}},
    )
    assert found.files == (
        Found("a.png", "cat", "train", "7", (("age", "<18"), ("view", "PA"))),
        Found("b.png", "dog", "pool", None, (("age", ""), ("view", "A,P"))),
        Found("c.png", "dog", "test", "8", (("age", "≥65"), ("view", "PA"))),
    )


def test_columns_may_have_any_name(read: Read, tmp_path: Path) -> None:
    found = read(
        "file,finding,who,site\nNORMAL/a.png,No Finding,1,x\nNORMAL/b.png,Pneumonia,2,y\n",
        columns={
            "path": "file", "label": "finding", "patient": "who", "slices": [],
            "labels": {"No Finding": "NORMAL", "Pneumonia": "PNEUMONIA"},
        },
        root=str(tmp_path),
    )  # fmt: skip
    assert [(one.label, one.patient, one.slices) for one in found.files] == [
        ("NORMAL", "1", ()),
        ("PNEUMONIA", "2", ()),
    ]


def test_the_folder_may_be_the_label_and_classes_may_be_chosen(read: Read) -> None:
    text = "path\ncat/a.png\ndog/b.png\nbird/c.png\n"
    found = read(text, columns={"label": None}, classes=["dog", "cat"])
    assert [(one.path, one.label) for one in found.files] == [
        ("cat/a.png", "cat"),
        ("dog/b.png", "dog"),
    ]
    assert (found.classes, found.skipped) == (("dog", "cat"), ("bird/c.png",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\na.png\n", "line 2 .* 1 cells under 2 heads"),
        ("path,label\na.png,cat\na.png,dog\n", "more than once"),
        ("path,label\n../a.png,cat\n", "line 2 .* no file below the root"),
        ("path,label\n/a.png,cat\n", "no file below the root"),
        ("path,label\n,cat\n", "no file below the root"),
        ('path,label\n"a\tb.png",cat\n', "no file below the root"),
        ("path,label\na.png,\n", "line 2 .* no label"),
        ("path,label,split\na.png,cat,dev\n", "the split 'dev'"),
        ("path,path\n", "a column twice"),
        ("", "no table"),
        ('path,label\n"a', "no table"),
        ("path,label\n", "has no pictures"),
    ],
)
def test_a_line_that_cannot_be_understood_is_a_data_error(
    read: Read, text: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read(text)


def test_a_number_that_is_none_is_a_data_error(read: Read) -> None:
    with pytest.raises(DataError, match="age is no number: 'old'"):
        read("path,label,age\na.png,cat,old\n", columns={"bins": {"age": [18]}})


def test_a_table_that_is_not_described_is_a_config_error(
    read: Read, configure: Configure, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="no column label: it has path, class"):
        read("path,class\na.png,cat\n")
    with pytest.raises(ConfigError, match=r"data\.table=/path/to/table\.csv"):
        collect(configure(source="csv", root=str(tmp_path)), tmp_path)
    with pytest.raises(DataError, match="cannot be read"):
        collect(configure(source="csv", table=str(tmp_path / "nothing.csv")), tmp_path)


def test_ranges_are_named_by_their_ends() -> None:
    told = [between(value, [18, 40.5]) for value in (-1, 17.9, 18, 40.4, 40.5, 99)]
    assert told == ["<18", "<18", "18–40.5", "18–40.5", "≥40.5", "≥40.5"]


@pytest.mark.skipif("PULMO_SHARED_DATA" not in os.environ, reason="PULMO_SHARED_DATA is not set")
def test_adult_xrays_need_a_configuration_and_nothing_else(
    configure: Configure, tmp_path: Path
) -> None:
    root = Path(os.environ["PULMO_SHARED_DATA"], "adult_nih")
    config = configure(
        source="csv",
        root=str(root),
        table="metadata.csv",
        columns={
            "path": "file", "label": None, "patient": "patient_id",
            "slices": ["age", "gender", "view"], "bins": {"age": [18, 40, 65]},
        },
    )  # fmt: skip
    found = collect(config, tmp_path)
    assert found.classes == ("NORMAL", "PNEUMONIA")
    assert len(found.files) == 120
    first = found.files[0]
    assert (first.patient, first.slices) == (
        "1300",
        (("age", "40–65"), ("gender", "F"), ("view", "PA")),
    )
