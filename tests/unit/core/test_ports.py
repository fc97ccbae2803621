import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulmo.core.ports import ModelRef, is_alias, is_name
from pulmo.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("toy", ModelRef("toy", alias="latest")),
        ("toy:production", ModelRef("toy", alias="production")),
        ("toy:v0", ModelRef("toy", version=0)),
        ("toy-2.x:v12", ModelRef("toy-2.x", version=12)),
        ("toy@0123456789ab", ModelRef("toy", digest="0123456789ab")),
    ],
)
def test_a_reference_is_read(text: str, ref: ModelRef) -> None:
    assert ModelRef.parse(text) == ref
    alias = "production" if text == "toy" else ref.alias
    assert ModelRef.parse(text, bare="production").alias == alias


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "toy:",
        "Toy",
        "toy:Production",
        "toy:v1:v2",
        "toy@abc",
        "toy@0123456789AB",
        "toy@" + "0" * 65,
        "../toy",
        "toy:3",
        "toy:a b",
        "-toy",
    ],
)
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="names no model"):
        ModelRef.parse(text)


NAMES = st.from_regex(r"[a-z0-9]([a-z0-9._-]{0,10}[a-z0-9])?", fullmatch=True)
REFS = st.one_of(
    st.builds(ModelRef, NAMES, alias=st.from_regex(r"[a-uw-z][a-z0-9_-]{0,8}", fullmatch=True)),
    st.builds(ModelRef, NAMES, version=st.integers(0, 999_999_999)),
    st.builds(ModelRef, NAMES, digest=st.from_regex(r"[0-9a-f]{12,64}", fullmatch=True)),
)


@given(REFS)
def test_a_written_reference_reads_as_itself(ref: ModelRef) -> None:
    assert ModelRef.parse(str(ref)) == ref


@given(st.text(max_size=30))
def test_any_text_is_a_reference_or_refused(text: str) -> None:
    try:
        ref = ModelRef.parse(text)
    except ConfigError:
        return
    assert is_name(ref.name)
    assert ModelRef.parse(str(ref)) == ref


def test_a_word_that_looks_like_a_version_is_no_alias() -> None:
    assert is_alias("vip")
    assert not is_alias("v3")
    assert not is_name("a/b")
