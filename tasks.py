"""What a developer or a workflow types: `uv run invoke NAME`. Each task calls `uv run …`."""

import ast
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from invoke.context import Context
from invoke.tasks import task

ACCEPTANCE = Path("tests/acceptance")
ARCHITECTURE = Path("docs/architecture.md")
MAP_BEGINS, MAP_ENDS = "<!-- map of files: uv run invoke map -->", "<!-- end of the map -->"
LAYERS = ("verbs", "jobs", "serving", "data", "models", "registry", "inference", "store")
LAYERS += ("config", "core")


CREDENTIAL = "GOOGLE_APPLICATION_CREDENTIALS"
LOGIN = Path("~/.config/gcloud/application_default_credentials.json")


def _run(context: Context, *command: str, **environment: str) -> None:
    line = shlex.join(["uv", "run", *command])
    context.run(line, echo=True, pty=sys.stdout.isatty(), env=environment)


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
    _run(context, *script, *options)


def _dvc(context: Context, *words: str) -> None:
    _run(context, "--group", "data", "dvc", *words)


def _remote() -> str:
    """The address of DVC's default remote; ends where it cannot be reached for lack of a login."""
    asked = ["uv", "run", "--group", "data", "dvc", "remote", "list"]
    told = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    chosen = [line.split() for line in told.splitlines() if line.endswith("(default)")]
    address = chosen[0][1] if chosen else sys.exit("DVC has no default remote: dvc remote add -d …")
    emulated = os.environ.get("STORAGE_EMULATOR_HOST")
    key = os.environ.get(CREDENTIAL)
    if address.startswith("gs://") and not emulated and not key and not LOGIN.expanduser().exists():
        sys.exit(
            f"{address} needs a service account: set {CREDENTIAL} to the path of its key file, "
            "or run: gcloud auth application-default login"
        )
    return address


@task(name="data-pull")
def data_pull(context: Context) -> None:
    """Bring the pictures that data/raw.dvc names from DVC's remote."""
    print(f"from {_remote()}")
    _dvc(context, "pull", "data/raw.dvc")


@task(name="data-push")
def data_push(context: Context) -> None:
    """Bring pictures, models and reports of dvc.lock to DVC's remote."""
    print(f"to {_remote()}")
    _dvc(context, "push")


@task
def draw(context: Context) -> None:
    """Draw the phantom's pictures, which data/raw.dvc names, into data/raw: no remote needed."""
    if Path("data/raw").exists():
        sys.exit("data/raw holds pictures already: move them away first")
    with tempfile.TemporaryDirectory(dir="data") as folder:
        _run(context, "main.py", "data", "data=phantom", PULMO_DATA_DIR=folder)
        (drawn,) = Path(folder, "phantom/raw").iterdir()
        drawn.rename("data/raw")
    _dvc(context, "commit", "--quiet", "data/raw.dvc")


@task
def repro(context: Context) -> None:
    """Data to report by DVC: only the stages whose data, code or configuration changed."""
    _dvc(context, "repro")


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
