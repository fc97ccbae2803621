"""What the staged tests said: from JUnit to checks, and to JSON and Markdown for people."""

import json
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from pulmo.core.ports import Check, Verdict, Version


def read_junit(path: Path, required: Sequence[str]) -> list[Check]:
    """One check for every required test and every other test that ran.

    A required test that is missing or skipped is a no, and so is a report that is not there.
    """
    found: dict[str, list[Check]] = {}
    try:
        root = ElementTree.parse(path).getroot()  # noqa: S314 - pytest wrote it just now
    except (OSError, ElementTree.ParseError):
        root = ElementTree.Element("none")
    for case in root.iter("testcase"):
        check = _check(case)
        found.setdefault(check.name, []).append(check)
    checks = [check for group in found.values() for check in group]
    missing = [name for name in required if name not in found]
    return [*checks, *(Check(name, False, "the test did not run") for name in missing)]


def _check(case: ElementTree.Element) -> Check:
    name = case.get("name", "").partition("[")[0]
    for kind in ("failure", "error", "skipped"):
        trouble = case.find(kind)
        if trouble is not None:
            message = (trouble.get("message") or kind).splitlines()[0]
            return Check(name, False, message.removeprefix("AssertionError: "))
    details = [p.get("value", "") for p in case.iter("property") if p.get("name") == "detail"]
    return Check(name, True, "; ".join(details))


def write_reports(
    folder: Path, version: Version, champion: Version | None, verdict: Verdict
) -> None:
    """Write `verdict.json` and `verdict.md` beside the JUnit report."""
    document = {
        "model": version.label,
        "model_digest": verdict.model_digest,
        "champion": champion.label if champion else None,
        "champion_digest": verdict.champion_digest,
        "suite_digest": verdict.suite_digest,
        "data_digest": verdict.data_digest,
        "verdict": verdict.id,
        "passed": verdict.passed,
        "details": dict(verdict.details),
        "checks": [vars(check) for check in verdict.checks],
    }
    text = json.dumps(document, indent=2) + "\n"
    (folder / "verdict.json").write_text(text, encoding="utf-8")
    rows = "\n".join(
        f"| {check.name} | {'yes' if check.passed else '**no**'} | {_cell(check.detail)} |"
        for check in verdict.checks
    )
    against = f"against {champion.label}" if champion else "without a champion"
    title = f"{version.label} {'passed' if verdict.passed else 'was refused'}, {against}"
    warnings = "".join(f"Warning: {one}\n\n" for one in verdict.details.get("warnings", ()))
    markdown = f"# {title}\n\n{warnings}| test | passed | detail |\n|---|---|---|\n{rows}\n"
    (folder / "verdict.md").write_text(markdown, encoding="utf-8")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
