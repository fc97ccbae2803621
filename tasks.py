"""What a developer or a workflow types: `uv run invoke NAME`. Each task calls `uv run …`."""

import ast
import shlex
import sys
from pathlib import Path

from invoke.context import Context
from invoke.tasks import task

from scripts.cloud_run import deploy, push, rollback
from scripts.image_tasks import build
from scripts.vm_tasks import vm_log, vm_status, vm_train
from scripts.workflow_tasks import (
    check_event,
    comment,
    data_changes,
    data_pull,
    data_push,
    docs,
    draw,
    publish,
    report,
    repro,
    run,
    test_oldest_torch,
    test_staged,
    workflows,
)

__all__ = [
    "build",
    "check_event",
    "comment",
    "data_changes",
    "data_pull",
    "data_push",
    "deploy",
    "docs",
    "draw",
    "publish",
    "push",
    "report",
    "repro",
    "rollback",
    "test_oldest_torch",
    "test_staged",
    "vm_log",
    "vm_status",
    "vm_train",
    "workflows",
]

ACCEPTANCE = Path("tests/acceptance")
ARCHITECTURE = Path("docs/architecture.md")
MAP_BEGINS, MAP_ENDS = "<!-- map of files: uv run invoke map -->", "<!-- end of the map -->"
LAYERS = ("verbs", "jobs", "serving", "data", "models", "registry", "inference", "store")
LAYERS += ("config", "core")


@task(help={"overrides": "key=value …, in quotes"})
def data(context: Context, overrides: str = "") -> None:
    """Collect, check and split a data set: `invoke data --overrides data=phantom`."""
    run(context, "main.py", "data", *shlex.split(overrides))


@task(help={"overrides": "key=value …, in quotes", "stage": "register, test and promote it too"})
def train(context: Context, overrides: str = "", stage: bool = False) -> None:
    """Train a model: `invoke train --overrides "data=phantom seed=1"`."""
    run(context, "main.py", "train", *(["--stage"] if stage else []), *shlex.split(overrides))


@task
def test(context: Context) -> None:
    """Run the quick tests with branch coverage."""
    run(context, "coverage", "run", "-m", "pytest")
    run(context, "coverage", "combine", "--quiet")
    run(context, "coverage", "report")


@task(
    name="benchmark-serving",
    help={"arguments": "--model BUNDLE --pictures FOLDER --large FOLDER …, in quotes"},
)
def benchmark_serving(context: Context, arguments: str) -> None:
    """Measure serving beside its peers and write docs/performance.md and its plot."""
    groups = ("--group", "bench", "--group", "openvino")
    run(context, *groups, "python", "-m", "benchmarks.serving", *shlex.split(arguments))
    run(context, "python", "-m", "benchmarks.page")


@task(
    name="benchmark-training",
    help={"arguments": "KEY=VALUE … --only T4 --gpu --quick, in quotes"},
)
def benchmark_training(context: Context, arguments: str = "") -> None:
    """Measure training beside a plain loop and write docs/performance.md; `--gpu` on a GPU."""
    groups = ("--group", "search")
    run(context, *groups, "python", "-m", "benchmarks.training", *shlex.split(arguments))
    run(context, "python", "-m", "benchmarks.page")


@task(
    name="benchmark-recipes",
    help={"arguments": "KEY=VALUE … --name NAME --why TEXT --folds 0,1, in quotes"},
)
def benchmark_recipes(context: Context, arguments: str = "") -> None:
    """Judge a recipe on clusters of patients that it never saw and write docs/experiments.md."""
    groups = ("--group", "bench")
    run(context, *groups, "python", "-m", "benchmarks.clusters", *shlex.split(arguments))
    run(context, "python", "-m", "benchmarks.quality_page")


@task(
    name="benchmark-quality",
    help={"arguments": "--recipe NAME OVERRIDES … --seeds 5 --trained DIR, in quotes"},
)
def benchmark_quality(context: Context, arguments: str) -> None:
    """Train recipes with several seeds, measure them and write docs/experiments.md and its plot."""
    run(context, "python", "-m", "benchmarks.quality", *shlex.split(arguments))
    run(context, "python", "-m", "benchmarks.quality_page")


@task
def lint(context: Context) -> None:
    """Check style and format."""
    run(context, "ruff", "check")
    run(context, "ruff", "format", "--check")


@task
def format(context: Context) -> None:  # noqa: A001 - the word a developer types
    """Mend style and format."""
    run(context, "ruff", "check", "--fix")
    run(context, "ruff", "format")


@task
def types(context: Context) -> None:
    """Check types, strictly."""
    run(context, "mypy")
    run(context, "mypy", "frontend")


@task
def layers(context: Context) -> None:
    """Check that imports point downward and that files and functions stay small."""
    run(context, "lint-imports")
    run(context, "pytest", "-q", "tests/unit/test_house.py")


@task(name="frontend-requirements")
def frontend_requirements(context: Context) -> None:
    """Write frontend/requirements.txt from the lock."""
    options = "--locked --only-group frontend --no-header --no-annotate"
    context.run(f"uv export {options} --output-file frontend/requirements.txt", echo=True)


@task(positional=["name"], help={"name": "a file of tests/acceptance without test_ and .py"})
def accept(context: Context, name: str) -> None:
    """Run one long proof: `invoke accept quickstart`."""
    path = ACCEPTANCE / f"test_{name}.py"
    if not path.is_file():
        known = sorted(p.stem.removeprefix("test_") for p in ACCEPTANCE.glob("test_*.py"))
        sys.exit(f"no proof is called '{name}'; there are: {', '.join(known)}")
    run(context, "pytest", "-o", "addopts=--import-mode=importlib", "-ra", "-v", str(path))


@task(
    name="load-test",
    help={
        "url": "a server that runs; else one is started",
        "model": "what the started server serves; else the only model in production",
        "pictures": "a folder; else phantoms are drawn",
        "seconds": "how long; else as load_tests/limits.toml says",
        "report": "where the HTML report goes",
    },
)
def load_test(
    context: Context,
    url: str = "",
    model: str = "",
    pictures: str = "",
    seconds: str = "",
    report: str = "runs/load-test.html",
) -> None:
    """Ask a server in every way at once; ends with 3 beyond the limits of load_tests/."""
    given = {"url": url, "model": model, "pictures": pictures, "seconds": seconds}
    options = [word for name, value in given.items() if value for word in (f"--{name}", value)]
    script = ["--group", "load", "python", "load_tests/run.py", "--report", report]
    run(context, *script, *options)


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
