"""What a developer or a workflow types: `uv run invoke NAME`. Each task calls `uv run …`."""

import ast
import shlex
import sys
from pathlib import Path

from invoke.context import Context
from invoke.tasks import task

ACCEPTANCE = Path("tests/acceptance")
ARCHITECTURE = Path("docs/architecture.md")
MAP_BEGINS, MAP_ENDS = "<!-- map of files: uv run invoke map -->", "<!-- end of the map -->"
LAYERS = ("verbs", "jobs", "serving", "data", "models", "registry", "inference", "store")
LAYERS += ("config", "core")


def _run(context: Context, *command: str) -> None:
    line = shlex.join(["uv", "run", *command])
    context.run(line, echo=True, pty=sys.stdout.isatty())


@task(help={"overrides": "key=value …, in quotes"})
def train(context: Context, overrides: str = "") -> None:
    """Train a model: `invoke train --overrides "data=phantom seed=1"`."""
    _run(context, "main.py", "train", *shlex.split(overrides))


@task
def test(context: Context) -> None:
    """Run the quick tests with branch coverage."""
    _run(context, "coverage", "run", "-m", "pytest")
    _run(context, "coverage", "combine", "--quiet")
    _run(context, "coverage", "report")


@task
def lint(context: Context) -> None:
    """Check style and format."""
    _run(context, "ruff", "check")
    _run(context, "ruff", "format", "--check")


@task
def format(context: Context) -> None:  # noqa: A001 - the word a developer types
    """Mend style and format."""
    _run(context, "ruff", "check", "--fix")
    _run(context, "ruff", "format")


@task
def types(context: Context) -> None:
    """Check types, strictly."""
    _run(context, "mypy")


@task
def layers(context: Context) -> None:
    """Check that imports point downward and that files and functions stay small."""
    _run(context, "lint-imports")
    _run(context, "pytest", "-q", "tests/unit/test_house.py")


@task(positional=["name"], help={"name": "a file of tests/acceptance without test_ and .py"})
def accept(context: Context, name: str) -> None:
    """Run one long proof: `invoke accept quickstart`."""
    path = ACCEPTANCE / f"test_{name}.py"
    if not path.is_file():
        known = sorted(p.stem.removeprefix("test_") for p in ACCEPTANCE.glob("test_*.py"))
        sys.exit(f"no proof is called '{name}'; there are: {', '.join(known)}")
    _run(context, "pytest", "-o", "addopts=--import-mode=importlib", "-ra", "-v", str(path))


def file_map() -> str:
    """Every module of the package with the sentence it begins with, by layer, as Markdown."""
    lines = []
    for layer in LAYERS:
        lines += [f"### {layer}/", "", "| file | what it is for |", "|---|---|"]
        for path in sorted((Path("src/pulmo") / layer).glob("*.py")):
            if path.stem != "__init__":
                sentence = (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").split(
                    "\n\n"
                )
                told = " ".join(sentence[0].split()).replace("|", "\\|")
                lines.append(f"| `{path.name}` | {told} |")
        lines.append("")
    return "\n".join(lines)


@task
def map(context: Context) -> None:  # noqa: A001 - the word a developer types
    """Write the map of files into docs/architecture.md."""
    head, _, rest = ARCHITECTURE.read_text("utf-8").partition(MAP_BEGINS)
    _, _, tail = rest.partition(MAP_ENDS)
    ARCHITECTURE.write_text(f"{head}{MAP_BEGINS}\n\n{file_map()}{MAP_ENDS}{tail}", "utf-8")


@task(pre=[lint, types, layers, test])
def ci(context: Context) -> None:
    """Lint, types, layers and tests, as continuous integration runs them."""
