"""The page of the ML Test Score is true: its tests exist and its sums are right."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/ml-test-score.md"
QUESTIONS = re.compile(r"^\| ([DMIO]\d) \| (.+?) \| (0|0\.5|1) \| (.+) \|$", re.MULTILINE)
LINK = re.compile(r"\[`(\w+)`\]\(([^)]+)\)")
SECTIONS = {"Data": "D", "Model": "M", "Infrastructure": "I", "Monitoring": "O"}


def rows() -> list[tuple[str, float, str]]:
    found = QUESTIONS.findall(PAGE.read_text(encoding="utf-8"))
    return [(number, float(points), evidence) for number, _, points, evidence in found]


def test_there_are_seven_questions_in_each_section() -> None:
    expected = [f"{letter}{i}" for letter in SECTIONS.values() for i in range(1, 8)]
    assert [number for number, _, _ in rows()] == expected


@pytest.mark.parametrize(("number", "points", "evidence"), rows())
def test_a_point_has_tests_that_exist_and_no_point_says_so(
    number: str, points: float, evidence: str
) -> None:
    links = LINK.findall(evidence)
    if points == 0:
        assert evidence.startswith("not yet"), number
        assert not links
        return
    assert links, f"{number} earns {points} and names no test"
    for name, target in links:
        path = (PAGE.parent / target).resolve()
        assert path.is_relative_to(ROOT), target
        tree = ast.parse(path.read_text(encoding="utf-8"))
        functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
        assert name in functions, f"{target} has no {name}"
        assert name.startswith("test_")


def test_the_sums_are_right_and_the_score_is_the_smallest() -> None:
    text = PAGE.read_text(encoding="utf-8")
    sums = {
        section: sum(points for number, points, _ in rows() if number.startswith(letter))
        for section, letter in SECTIONS.items()
    }
    for section, total in sums.items():
        assert f"| {section} | {total:g} |" in text
    score = min(sums.values())
    assert f"| **score** | **{score:g}** |" in text
    assert score >= 4


def test_every_staged_test_that_earns_a_point_is_required() -> None:
    required = (ROOT / "configs/gate/default.yaml").read_text(encoding="utf-8")
    links = [link for _, _, evidence in rows() for link in LINK.findall(evidence)]
    for name, target in links:
        if "staged_model_tests" in target:
            assert f"  - {name}\n" in required
