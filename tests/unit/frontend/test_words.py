import pytest
from hypothesis import given
from hypothesis import strategies as st
from ui import words
from ui.api import ApiError


@given(st.text(max_size=60))
def test_text_of_others_loses_nothing_and_marks_nothing(text: str) -> None:
    made = words.plain(text)
    shown = []
    rest = iter(made)
    for letter in rest:
        bare = letter == "\\"
        following = next(rest) if bare else letter
        assert (
            bare
            or following.isalnum()
            or not following.isascii()
            or following in " \x7f"
            or (not following.isprintable())
        )
        shown.append(following)
    assert "".join(shown) == " ".join(text.split())


@pytest.mark.parametrize("status", [None, 400, 401, 403, 404, 409, 413, 415, 422, 429, 500, 503])
def test_every_trouble_has_a_heading(status: int | None) -> None:
    heading, advice = words.explained(ApiError("it is <so>", status, 7))
    assert heading
    assert advice.startswith(r"It is \<so\>\. Ask again in 7 s.")


def test_a_trouble_says_what_to_do() -> None:
    assert "keys create" in words.explained(ApiError("", 401))[1]
    assert "main.py serve" in words.explained(ApiError("", None))[1]
    assert words.explained(ApiError("", 502)) == ("The server failed", "")


@pytest.mark.parametrize(
    ("text", "shown"),
    [("", ""), ("far off", r"Far off\."), ("Why?", r"Why\?"), ("v1: no.", r"V1\: no\.")],
)
def test_a_clause_becomes_a_sentence(text: str, shown: str) -> None:
    assert words.sentence(text) == shown


def test_a_card_loads_nothing_from_elsewhere() -> None:
    card = f"---\npipeline_tag: x\n---\n\n# toy\n`{'ab' * 32}`\n![a](https://evil.example/b.png)\n![a][b]\n"
    shown = words.card(card)
    assert "pipeline_tag" not in shown
    assert "#### toy" in shown
    assert "`abababababab…`" in shown
    assert "![" not in shown
    assert r"!\[a](https://evil.example/b.png)" in shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0.0 %"), (0.5, "50.0 %"), (0.9996, "99.9 %"), (1.0, "100.0 %"), (0.0412, "4.1 %")],
)
def test_a_share_is_never_said_to_be_certain(value: float, shown: str) -> None:
    assert words.share(value) == shown


@pytest.mark.parametrize(
    ("prediction", "decision", "shown"),
    [
        ("A_B", "accept", r"**A\_B**, with a probability of 98.0 %"),
        ("A_B", "refer", r"A person should look. The model leans to A\_B (98.0 %)."),
        (None, "refer", "**No diagnosis**: a person should look."),
    ],
)
def test_an_answer_says_what_it_means(prediction: str | None, decision: str, shown: str) -> None:
    answer = {"prediction": prediction, "decision": decision, "probability": 0.98}
    assert words.verdict(answer) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("2026-11-21T10:02:41+02:00", "2026-11-21 08:02"),
        ("2026-11-21T10:02:41", "2026-11-21 10:02"),
        ("once", "once"),
        (None, ""),
    ],
)
def test_times_are_told_in_utc(text: str | None, shown: str) -> None:
    assert words.moment(text) == shown


def test_a_figure_has_its_interval() -> None:
    whole = {"value": 0.98765, "low": 0.9, "high": 1.0}
    assert words.figure(whole) == ("0.988", "0.900 to 1.000")
    assert words.figure({"value": None, "low": None, "high": None}) == ("–", "–")
