"""What the staged tests are given: known pictures, a fair sample, the terms."""

from pathlib import Path

import numpy as np
import pytest

from pulmo.config.compose import compose
from pulmo.core.bundle import Bundle
from pulmo.core.gate import GateSplit
from pulmo.data.manifest import DataSet, Manifest, Row
from pulmo.errors import ConfigError
from pulmo.jobs.staged import Case, Contender, Terms, find_known, read_environment


def data_set(count: int, folder: Path) -> DataSet:
    rows = tuple(
        Row(f"{i}.png", "DARK", "val", f"p{i}", "0" * 64, f"{i:064x}") for i in range(count)
    )
    return DataSet(folder, folder, Manifest("toy", ("DARK", "BRIGHT"), 1, rows))


def test_known_pictures_are_found_by_their_digest(tmp_path: Path, toy_bundle: Bundle) -> None:
    digests = [bytes.fromhex(f"{i:064x}") for i in (7, 2, 99)]
    reference = {"digests": np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)}

    class Remembering(Bundle):
        def reference(self) -> dict[str, np.ndarray]:
            return reference

    bundle = Remembering(**{name: getattr(toy_bundle, name) for name in Bundle.model_fields})
    known = find_known(bundle, data_set(10, tmp_path))
    assert known.places.tolist() == [0, 1]
    assert known.rows.tolist() == [7, 2]


def test_an_older_bundle_knows_no_picture(tmp_path: Path, toy_bundle: Bundle) -> None:
    known = find_known(toy_bundle, data_set(10, tmp_path))
    assert known.places.shape == known.rows.shape == (0,)


def test_a_sample_takes_as_many_of_every_class(tmp_path: Path, toy_bundle: Bundle) -> None:
    labels = np.array([0] * 90 + [1] * 10, dtype=np.int64)
    contender = Contender(toy_bundle, data_set(100, tmp_path), np.arange(100))
    split = GateSplit(labels, [str(i) for i in range(100)], ["0" * 64] * 100, 1)
    case = Case(contender, None, Terms.of(compose(["data=phantom"])), split)
    places = case.some(40)
    assert np.bincount(labels[places]).tolist() == [20, 10]
    assert len(set(places.tolist())) == 30
    assert places[0] == 0
    assert places[-1] == 99


def test_terms_come_back_from_the_environment_and_a_missing_one_is_named(tmp_path: Path) -> None:
    terms = Terms.of(compose(["data=phantom"])).model_copy(update={"number": 3, "champion": "a"})
    path = tmp_path / "terms.json"
    path.write_text(terms.model_dump_json(), encoding="utf-8")
    found = read_environment({"MODEL_REF": "toy:staging", "PULMO_TERMS": str(path)})
    assert (str(found[0]), found[1]) == ("toy:staging", terms)
    with pytest.raises(ConfigError, match="PULMO_TERMS not set"):
        read_environment({"MODEL_REF": "toy:staging"})
