"""Splits are kept by patient and picture, and a manifest means the same wherever it lies."""

import hashlib
import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulmo.config.schema import DataConfig
from pulmo.core.bundle import sha256
from pulmo.data import manifest as m
from pulmo.data.dealing import Picture, build
from pulmo.data.manifest import Manifest, Row, find, load, store
from pulmo.errors import ConfigError, DataError

CLASSES = ("cat", "dog")
PATTERN = r"^(p\d+)_|^x(\d+)"


def picture(
    name: str, label: str = "cat", role: Literal["pool", "test"] = "pool", pixels: str | None = None
) -> Picture:
    path = f"{role}/{label}/{name}"
    return Picture(path, label, role, sha256(path.encode()), pixels or sha256(f"p{path}".encode()))


def made(*pictures: Picture, patient: str | None = PATTERN, name: str = "pets") -> Manifest:
    data = DataConfig(name=name, source="folder", intended_use="tests", patient=patient)
    return build(data, CLASSES, pictures)


def splits(manifest: Manifest) -> dict[str, str]:
    return {row.path: row.split for row in manifest.rows}


MANY = [picture(f"p{i:04}_{k}.png", CLASSES[i % 2]) for i in range(1500) for k in range(1 + i % 3)]
TESTS = [picture(f"p{i:04}_0.png", role="test") for i in range(40)]


def share(manifest: Manifest, split: str, role: str = "pool") -> float:
    patients = {(row.patient, row.split) for row in manifest.rows if row.path.startswith(role)}
    return sum(found == split for _, found in patients) / len(patients)


def test_without_an_official_test_split_patients_are_dealt_70_10_10_10() -> None:
    manifest = made(*MANY)
    assert share(manifest, "train") == pytest.approx(0.7, abs=0.03)
    for split in ("val", "gate", "test"):
        assert share(manifest, split) == pytest.approx(0.1, abs=0.025)


def test_beside_an_official_test_split_they_are_dealt_80_10_10() -> None:
    manifest = made(*MANY, *TESTS)
    assert share(manifest, "test") == 0
    assert share(manifest, "test", role="test") == 1
    assert share(manifest, "train") == pytest.approx(0.8, abs=0.03)
    assert share(manifest, "val") == pytest.approx(0.1, abs=0.025)


def test_a_patient_is_never_on_two_sides() -> None:
    sides = defaultdict(set)
    for row in made(*MANY).rows:
        sides[row.patient].add(row.split)
    assert all(len(found) == 1 for found in sides.values())


def test_growing_data_move_no_patient() -> None:
    before, after = splits(made(*MANY[:500])), splits(made(*MANY))
    assert before.items() <= after.items()


def test_an_official_test_split_moves_no_patient_of_gate_and_val() -> None:
    alone, beside = splits(made(*MANY)), splits(made(*MANY, *TESTS))
    for path, split in alone.items():
        assert beside[path] == ("train" if split == "test" else split)


def test_patients_are_told_apart_by_official_split() -> None:
    rows = {row.path: row.patient for row in made(MANY[0], TESTS[0]).rows}
    assert set(rows.values()) == {"pool/p0000", "test/p0000"}


def test_the_patient_is_the_first_group_that_is_not_empty_or_the_match() -> None:
    names = ["p7_1.png", "x9.png", "other.png"]
    patients = [row.patient for row in made(*map(picture, names)).rows]
    assert patients == [picture("other.png").pixels[:16], "pool/p7", "pool/9"]
    (row,) = made(picture("kid-3-b.png"), patient=r"kid-\d").rows
    assert row.patient == "pool/kid-3"


def test_only_the_file_name_is_searched_for_the_patient() -> None:
    (row,) = made(picture("b.png"), patient="cat").rows
    assert "/" not in row.patient


def test_without_a_pattern_every_picture_is_dealt_by_its_pixels() -> None:
    one, two = made(picture("a.png"), patient=None), made(picture("b.png", "dog"), patient=None)
    assert one.rows[0].patient != two.rows[0].patient
    moved = picture("elsewhere.png", pixels=one.rows[0].pixels)
    assert made(moved, patient=None).rows[0].split == one.rows[0].split


def test_a_pattern_that_cannot_be_read_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"data\.patient='\('"):
        made(patient="(")


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 12), st.booleans()), max_size=60))
def test_an_equal_picture_stays_in_the_most_protected_split_alone(
    drawn: list[tuple[int, int, bool]],
) -> None:
    pictures = [
        picture(f"p{who}_{i}.png", role="test" if test else "pool", pixels=sha256(bytes([what])))
        for i, (who, what, test) in enumerate(drawn)
    ]
    manifest = made(*pictures)
    alone = {p.path: made(p, *TESTS).rows[0].split for p in pictures if p.role == "pool"}
    groups = defaultdict(list)
    for row in manifest.rows:
        groups[row.pixels].append(row)
    for rows in groups.values():
        kept = {row.split for row in rows} - {"excluded"}
        assert len(kept) == 1
        (split,) = kept
        if any(test for *_, test in drawn):
            meant = {alone.get(row.path, "test") for row in rows}
            assert split == next(s for s in ("test", "gate", "val", "train") if s in meant)


def test_rows_are_sorted_by_path_whatever_order_they_come_in() -> None:
    assert made(*MANY[:50]).digest == made(*reversed(MANY[:50])).digest


def test_the_digest_knows_classes_channels_and_rows_and_no_name() -> None:
    base = made(*MANY[:5])
    assert base.digest == made(*MANY[:5], name="other").digest
    others = [
        made(*MANY[:4]),
        Manifest("pets", ("dog", "cat"), 1, base.rows),
        Manifest("pets", CLASSES, 3, base.rows),
    ]
    assert len({base.digest, *(other.digest for other in others)}) == 4


def test_the_table_has_one_canonical_form() -> None:
    row = Row('a,"b"/c é.png', "cat", "val", "pool/1", "0" * 64, "f" * 64)
    table = Manifest("pets", CLASSES, 1, (row,)).table()
    assert table == (
        b'path,label,split,patient,sha256,pixels\n"a,""b""/c \xc3\xa9.png",cat,val,pool/1,'
        + b"0" * 64 + b"," + b"f" * 64 + b"\n"
    )  # fmt: skip


def test_the_digest_never_changes() -> None:
    row = Row("a.png", "cat", "val", "pool/1", "0" * 64, "f" * 64)
    head = b'{"channels": 1, "classes": ["cat", "dog"]}\n'
    table = f"path,label,split,patient,sha256,pixels\na.png,cat,val,pool/1,{'0' * 64},{'f' * 64}\n"
    expected = hashlib.sha256(head + table.encode()).hexdigest()
    assert Manifest("pets", CLASSES, 1, (row,)).digest == expected


def test_counts_are_by_split_and_class() -> None:
    manifest = made(picture("x1.png", role="test"), picture("x2.png", "dog", role="test"))
    assert manifest.counts()["test"] == {"cat": 1, "dog": 1}
    assert manifest.counts()["train"] == {"cat": 0, "dog": 0}


AWKWARD = [picture(name) for name in ("a,b.png", 'quo"te.png', " a b .png", "\u202fé.png")]


def test_what_is_stored_is_loaded_again(tmp_path: Path) -> None:
    manifest = made(*MANY[:5], *AWKWARD)
    stored = store(manifest, Path("/elsewhere/pets"), tmp_path)
    loaded = load(tmp_path, "pets")
    assert loaded == stored == find(tmp_path, manifest.digest)
    assert loaded.folder == tmp_path / "pets" / manifest.digest[:16]
    assert loaded.path(loaded.manifest.rows[0]) == Path(
        "/elsewhere/pets", loaded.manifest.rows[0].path
    )
    info = json.loads((loaded.folder / "dataset.json").read_text())
    assert info["counts"] == manifest.counts()
    assert info["root"] == "/elsewhere/pets"


def test_the_last_one_stored_is_current_and_the_others_are_found(tmp_path: Path) -> None:
    old, new = made(*MANY[:5]), made(*MANY[:6])
    store(old, Path("/pets"), tmp_path)
    store(new, Path("/pets"), tmp_path)
    assert load(tmp_path, "pets").manifest == new
    assert find(tmp_path, old.digest).manifest == old


def test_pictures_below_the_data_folder_move_with_it(tmp_path: Path) -> None:
    manifest = made(*MANY[:5])
    store(manifest, tmp_path / "a" / "pets" / "raw", tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    assert load(tmp_path / "b", "pets").root == tmp_path / "b" / "pets" / "raw"


def test_a_data_set_that_is_not_there_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"uv run main\.py data data=pets"):
        load(tmp_path, "pets")
    for digest in ("0" * 64, "nonsense", "*"):
        with pytest.raises(DataError, match=r"uv run main\.py data"):
            find(tmp_path, digest)


@pytest.mark.parametrize("name", ["../pets", "", "a/b", "Pets", "."])
def test_a_name_is_no_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.name"):
        load(tmp_path, name)


@pytest.mark.parametrize(
    ("file", "data"),
    [
        ("dataset.json", b"{"),
        ("dataset.json", b"{}"),
        (m.TABLE, b""),
        (m.TABLE, b"path,label\n"),
        (m.TABLE, b"\xff\xfe"),
        (m.TABLE, b"path,label,split,patient,sha256,pixels\nshort\n"),
        (m.TABLE, b"path,label,split,patient,sha256,pixels\n"),
        (m.TABLE, b'path,label,split,patient,sha256,pixels\n"open'),
    ],
)
def test_a_damaged_data_set_is_refused(tmp_path: Path, file: str, data: bytes) -> None:
    dataset = store(made(*MANY[:5]), Path("/pets"), tmp_path)
    (dataset.folder / file).write_bytes(data)
    with pytest.raises(DataError, match=r"uv run main\.py data data=pets"):
        load(tmp_path, "pets")


def test_a_damaged_pointer_is_refused(tmp_path: Path) -> None:
    store(made(*MANY[:5]), Path("/pets"), tmp_path)
    (tmp_path / "pets" / "dataset.json").write_text('{"digest": "../../etc"}')
    with pytest.raises(DataError, match="is damaged"):
        load(tmp_path, "pets")


def configured(**changes: object) -> DataConfig:
    known = {"name": "pets", "source": "folder", "intended_use": "tests"}
    return DataConfig.model_validate(known | changes)


def test_a_near_duplicate_leaves_the_less_protected_split() -> None:
    kept = picture("a.png", role="test", pixels="1" * 64)
    near = [picture(f"p{i:04}_0.png", pixels=f"{i:064x}") for i in range(2, 40)]
    alike = {p.pixels: kept.pixels for p in near}
    manifest = build(configured(patient=PATTERN), CLASSES, [kept, *near], alike)
    assert {row.split for row in manifest.rows if row.path != kept.path} == {"excluded"}
    assert splits(manifest)[kept.path] == "test"


def test_a_source_may_deal_its_pictures_itself() -> None:
    pictures = [
        replace(picture(f"{split}.png"), role=split, patient="7")
        for split in ("train", "val", "gate", "test")
    ]
    rows = build(configured(), CLASSES, pictures).rows
    assert sorted(row.split for row in rows) == ["gate", "test", "train", "val"]
    assert {row.patient for row in rows} == {"all/7"}


def test_one_numbering_means_one_person_in_every_part() -> None:
    pictures = [picture("p1_0.png"), picture("p1_1.png", role="test")]
    apart = build(configured(patient=PATTERN), CLASSES, pictures)
    assert [row.patient for row in apart.rows] == ["pool/p1", "test/p1"]
    one = configured(patient=PATTERN, splits={"one_numbering": True})
    assert {row.patient for row in build(one, CLASSES, pictures).rows} == {"all/p1"}


def test_slices_come_from_file_names_and_tables_and_belong_to_the_digest(tmp_path: Path) -> None:
    data = configured(slices={"kind": "_(virus|bacteria)"})
    pictures = [
        replace(picture("1_virus.png"), slices=(("age", "<18"),)),
        replace(picture("2.png"), slices=(("age", ""),)),
    ]
    manifest = build(data, CLASSES, pictures)
    assert manifest.slices == ("age", "kind")
    assert [row.slices for row in manifest.rows] == [
        (("age", "<18"), ("kind", "virus")),
        (("age", ""), ("kind", "")),
    ]
    assert manifest.table().splitlines()[0].endswith(b",slice:age,slice:kind")
    plain = build(configured(), CLASSES, [replace(p, slices=()) for p in pictures])
    assert plain.table().splitlines()[0] == ",".join(m.COLUMNS).encode()
    assert plain.digest != manifest.digest
    store(manifest, tmp_path / "root", tmp_path / "data")
    assert load(tmp_path / "data", "pets").manifest == manifest


def test_a_slice_that_is_no_regular_expression_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"data\.slices\.kind='\('"):
        build(configured(slices={"kind": "("}), CLASSES, [picture("a.png")])
