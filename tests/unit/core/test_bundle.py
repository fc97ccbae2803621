"""The bundle: written once, the same bytes every time, refused when anything is off."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pulmo.core import bundle as bundles
from pulmo.core.bundle import Bundle, BundleInfo, DecisionSpec, Specification
from pulmo.errors import ModelError

Make = Callable[..., Bundle]


@pytest.fixture
def copy(toy_bundle: Bundle, tmp_path: Path) -> Path:
    """A copy of the toy bundle that a test may spoil."""
    return Path(shutil.copytree(toy_bundle.path, tmp_path / "copy"))


def _resum(folder: Path) -> None:
    """Make SHA256SUMS fit again: what an attacker can do as well."""
    lines = (f"{bundles.file_digest(folder / name)}  {name}\n" for name in bundles.FILES)
    (folder / bundles.SUMS).write_text("".join(lines))


def test_what_was_written_is_read_back(toy_bundle: Bundle) -> None:
    again = bundles.verify(toy_bundle.path)
    assert again == toy_bundle
    assert again.info.specification.classes == ("DARK", "BRIGHT")
    assert again.graph == (toy_bundle.path / "model.onnx").read_bytes()
    assert again.reference()["embeddings"].dtype == np.float16
    assert again.members()["digests"].shape == (1, 32)
    assert again.info.score == 0.9


def test_equal_content_gives_equal_bytes(make_bundle: Make, tmp_path: Path) -> None:
    one, other = (make_bundle(tmp_path / name) for name in ("one", "other"))
    assert one.digest == other.digest
    for name in (*bundles.FILES, bundles.SUMS):
        assert (one.path / name).read_bytes() == (other.path / name).read_bytes()


def test_sha256sum_would_check_it(toy_bundle: Bundle) -> None:
    lines = (toy_bundle.path / bundles.SUMS).read_text().splitlines()
    assert [line[66:] for line in lines] == list(bundles.FILES)
    for line in lines:
        assert line[:64] == bundles.file_digest(toy_bundle.path / line[66:])
        assert line[64:66] == "  "


def test_the_model_digest_knows_nothing_of_metrics_or_lineage(
    make_bundle: Make, tmp_path: Path
) -> None:
    one = make_bundle(tmp_path / "one", score=0.5)
    other = make_bundle(tmp_path / "other", score=0.7)
    assert one.info.model_digest == other.info.model_digest
    assert one.digest != other.digest


@pytest.mark.parametrize("change", [{"weights": b"other"}, {"temperature": 2.0}])
def test_the_model_digest_knows_weights_and_specification(
    make_bundle: Make, toy_bundle: Bundle, tmp_path: Path, change: dict[str, Any]
) -> None:
    changed = make_bundle(tmp_path / "changed", **change)
    assert changed.info.model_digest != toy_bundle.info.model_digest


def test_a_bundle_is_never_written_over_something(make_bundle: Make, tmp_path: Path) -> None:
    (tmp_path / "note").write_text("mine")
    with pytest.raises(ModelError, match="not empty"):
        make_bundle(tmp_path)
    assert (tmp_path / "note").read_text() == "mine"


@pytest.mark.parametrize("name", bundles.FILES)
def test_one_changed_bit_is_found(copy: Path, name: str) -> None:
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(bytes(data))
    with pytest.raises(ModelError, match=f"{name} does not match its digest"):
        bundles.verify(copy)


@pytest.mark.parametrize("name", bundles.FILES)
def test_a_missing_file_is_found(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(ModelError, match=f"{name} is missing"):
        bundles.verify(copy)


def test_a_file_too_many_is_found(copy: Path) -> None:
    (copy / "weights.pkl").write_bytes(b"\x80\x04.")
    with pytest.raises(ModelError, match=r"files that no bundle has: \['weights\.pkl'\]"):
        bundles.verify(copy)


def test_a_symbolic_link_is_no_file(copy: Path, tmp_path: Path) -> None:
    target = (copy / "README.md").rename(tmp_path / "elsewhere")
    (copy / "README.md").symlink_to(target)
    with pytest.raises(ModelError, match="no plain file"):
        bundles.verify(copy)


@pytest.mark.parametrize("text", ["", "abc", f"{'0' * 64}  ../../etc/passwd\n", "x" * 5000])
def test_sums_that_are_none_are_refused(copy: Path, text: str) -> None:
    (copy / bundles.SUMS).write_text(text)
    with pytest.raises(ModelError):
        bundles.verify(copy)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.upper().replace("  ", " *"),
        lambda text: text.replace("README", "./README"),
        lambda text: text.replace("README.md\n", "README.md\0\n"),
        lambda text: text.rstrip("\n"),
        lambda text: "\n".join(reversed(text.splitlines())) + "\n",
    ],
)
def test_sums_have_one_form(copy: Path, change: Callable[[str], str]) -> None:
    sums = copy / bundles.SUMS
    sums.write_text(change(sums.read_text()), newline="")
    with pytest.raises(ModelError, match="must name exactly"):
        bundles.verify(copy)


def test_a_signature_lies_beside_the_sums_and_changes_no_digest(
    toy_bundle: Bundle, copy: Path
) -> None:
    assert toy_bundle.signature is None
    (copy / bundles.SIGNATURE).write_bytes(b"signed")
    signed = bundles.verify(copy)
    assert (signed.digest, signed.signature) == (toy_bundle.digest, b"signed")


def test_a_signature_that_is_no_small_file_is_refused(copy: Path) -> None:
    (copy / bundles.SIGNATURE).write_bytes(b"x" * (bundles.MAX_SIGNATURE_BYTES + 1))
    with pytest.raises(ModelError, match="larger than any"):
        bundles.verify(copy)
    (copy / bundles.SIGNATURE).unlink()
    (copy / bundles.SIGNATURE).symlink_to(copy / bundles.SUMS)
    with pytest.raises(ModelError, match="no plain file"):
        bundles.verify(copy)


def test_a_line_of_sums_may_not_repeat(copy: Path) -> None:
    text = (copy / bundles.SUMS).read_text()
    (copy / bundles.SUMS).write_text(text + text.splitlines()[0] + "\n")
    with pytest.raises(ModelError, match="must name exactly"):
        bundles.verify(copy)


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ModelError, match="is no bundle"):
            bundles.verify(folder)


def test_a_file_larger_than_any_may_be_is_refused(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundles, "MAX_FILE_BYTES", 100)
    with pytest.raises(ModelError, match="larger than any"):
        bundles.verify(copy)


def test_a_foreign_graph_is_found_even_where_the_sums_fit(copy: Path) -> None:
    (copy / "model.onnx").write_bytes(b"another graph")
    _resum(copy)
    with pytest.raises(ModelError, match="names another model"):
        bundles.verify(copy)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"format": 2}, "format"),
        ({"surprise": 1}, "surprise"),
        ({"model_digest": None}, "model_digest"),
        ({"metrics": {"val": {"auroc": {"value": "good"}}}}, "auroc"),
    ],
)
def test_information_that_is_not_understood_is_refused_by_name(
    copy: Path, change: dict[str, Any], told: str
) -> None:
    document = json.loads((copy / bundles.INFO).read_text())
    (copy / bundles.INFO).write_text(json.dumps({**document, **change}))
    _resum(copy)
    with pytest.raises(ModelError, match=told):
        bundles.verify(copy)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"curves": NaN}'])
def test_information_that_is_no_json_is_refused(copy: Path, text: str) -> None:
    (copy / bundles.INFO).write_text(text)
    _resum(copy)
    with pytest.raises(ModelError, match="not understood"):
        bundles.verify(copy)


def test_infinite_figures_never_enter_a_bundle(toy_bundle: Bundle) -> None:
    document = toy_bundle.info.model_dump()
    for curve in ([float("nan")], [float("inf")]):
        with pytest.raises(ValidationError):
            BundleInfo.model_validate({**document, "curves": {"roc": {"fpr": curve}}})


def test_the_score_of_an_undefined_metric_is_the_worst(toy_bundle: Bundle) -> None:
    none = {"val": {"auroc": bundles.Estimate(value=None)}}
    assert toy_bundle.info.model_copy(update={"metrics": none}).score == -np.inf
    assert toy_bundle.info.model_copy(update={"metrics": {}}).score == -np.inf


@pytest.mark.parametrize(
    "change",
    [
        {"classes": ("A", "A")},
        {"classes": ("A",)},
        {"classes": ("DARK\x1b[2J", "BRIGHT")},
        {"classes": ("A", "B")},  # the positive class is none of them
        {"classes": ("DARK", "BRIGHT", "GREY")},
        {"outputs": ("logits", "probabilities")},
        {"outputs": ("probabilities",)},
        {"temperature": 0},
        {"temperature": float("nan")},
        {"decision": {"rule": "threshold", "refer_low": 0, "refer_high": 0}},
        {"decision": {"rule": "argmax", "refer_low": 0.6, "refer_high": 0.5}},
        {"decision": {"rule": "argmax", "refer_low": 0, "refer_high": 1.5}},
    ],
)
def test_a_specification_that_contradicts_itself_is_refused(
    toy_specification: Specification, change: dict[str, Any]
) -> None:
    with pytest.raises(ValidationError):
        Specification.model_validate({**toy_specification.model_dump(), **change})


def test_outlier_limits_need_embeddings(toy_specification: Specification) -> None:
    limits = {"neighbours": 5, "limit": 0.1, "reference": "0" * 64}
    document = {**toy_specification.model_dump(), "outliers": limits}
    assert Specification.model_validate(document).outliers is not None
    with pytest.raises(ValidationError, match="embedding"):
        Specification.model_validate({**document, "outputs": ("probabilities", "logits")})


@settings(deadline=None)
@given(
    st.floats(0.05, 20), st.floats(0, 1), st.floats(0, 1),
    st.dictionaries(st.text(), st.integers() | st.floats(-9, 9) | st.booleans() | st.text())
)  # fmt: skip
def test_a_specification_has_the_same_digest_after_a_round_trip(
    toy_specification: Specification,
    temperature: float,
    threshold: float,
    low: float,
    options: dict[str, Any],
) -> None:
    decision = DecisionSpec(
        rule="threshold", positive="DARK", threshold=threshold, refer_low=low, refer_high=1
    )
    network = bundles.NetworkSpec(architecture="ü", options=options)
    specification = toy_specification.model_copy(
        update={"temperature": temperature, "decision": decision, "network": network}
    )
    again = Specification.model_validate_json(specification.model_dump_json())
    assert bundles.model_digest(b"g", b"w", again) == bundles.model_digest(
        b"g", b"w", specification
    )


def test_a_model_digest_does_not_know_what_is_not_said() -> None:
    """An optional field of a later release must not rename the models of this one."""
    plain = bundles.Specification.model_validate(
        {
            "classes": ["A", "B"],
            "input": {"height": 8, "width": 8, "channels": 1},
            "network": {"architecture": "x"},
            "outputs": ["probabilities", "logits"],
            "temperature": 1.5,
            "decision": {"rule": "argmax", "refer_low": 0, "refer_high": 0.5},
        }
    )
    assert bundles.model_digest(b"graph", b"weights", plain) == (
        "028d91dcda6043806964fbc02dff5281770aa6c2250da3c7eaa8fa06f0726cea"
    )
