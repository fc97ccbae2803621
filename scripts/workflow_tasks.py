"""Tasks that workflows run, and the tasks of data versions; `tasks.py` gathers them."""

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from invoke.context import Context
from invoke.tasks import task

CREDENTIAL = "GOOGLE_APPLICATION_CREDENTIALS"
LOGIN = ".config/gcloud/application_default_credentials.json"


def run(context: Context, *command: str, **environment: str) -> None:
    """`uv run COMMAND`, told before it runs."""
    line = shlex.join(["uv", "run", *command])
    context.run(line, echo=True, pty=sys.stdout.isatty(), env=environment)


@task(help={"url": "a folder or gs://…", "branch": "its folder below it"})
def publish(context: Context, url: str, branch: str) -> None:
    """Copy the bundle of the newest run to URL/BRANCH/COMMIT."""
    import fsspec

    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, check=True)
    newest = max(Path("runs").glob("*/bundle"), key=lambda bundle: bundle.stat().st_mtime)
    target = f"{url.rstrip('/')}/{branch}/{commit.stdout.decode().strip()}"
    storage, path = fsspec.url_to_fs(target)
    storage.makedirs(path, exist_ok=True)
    for file in sorted(newest.iterdir()):
        storage.put_file(str(file), f"{path}/{file.name}")
    print(target)


@task(name="check-event")
def check_event(context: Context) -> None:
    """The model that an event names (MODEL_NAME, MODEL_DIGEST), if it can be one, as an output."""
    model = _model(f"{os.environ.get('MODEL_NAME')}@{os.environ.get('MODEL_DIGEST')}")
    print(model)
    if output := os.environ.get("GITHUB_OUTPUT"):
        with Path(output).open("a", encoding="utf-8") as file:
            file.write(f"model={model}\n")


@task(name="test-staged")
def test_staged(context: Context) -> None:
    """Test and, if it passes, promote MODEL (name@digest), while the alias `staging` is there."""
    model = _model(os.environ.get("MODEL", ""))
    name, _, digest = model.partition("@")
    show = ["uv", "run", "main.py", "registry", "show", f"{name}:staging", "--json"]
    told = subprocess.run(show, stdout=subprocess.PIPE, check=False)
    if told.returncode:
        sys.exit(told.returncode)
    staged = json.loads(told.stdout)
    if staged["version"]["model_digest"] != digest:
        print(f"{name}:staging points elsewhere by now: nothing to test")
        return
    run(context, "main.py", "registry", "stage", model, "--reason", "asked for by an event")


def _model(text: str) -> str:
    """`text` where it is name@digest and nothing else; otherwise the end."""
    if re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,62}@[0-9a-f]{64}", text):
        return text
    sys.exit("the event names no model: a name and the 64 hex digits of its digest are needed")


@task(help={"base": "the commit or branch to compare with"})
def report(context: Context, base: str) -> None:
    """Train here and at BASE, and write figures and comparison below reports/."""
    out = Path("reports")
    run(context, "main.py", "data", "data=phantom")
    run(context, "main.py", "train", "data=phantom", f"run.dir={out}/here")
    places = {"PULMO_DATA_DIR": str(Path("data").resolve()), "UV_PROJECT_ENVIRONMENT": ".venv"}
    with _checkout(base) as folder, context.cd(folder):
        there = (out / "there").resolve()
        run(context, "--locked", "main.py", "train", "data=phantom", f"run.dir={there}", **places)
    compare = ["evaluate", "data=phantom", "--compare", f"{out}/here", f"{out}/there"]
    run(context, "main.py", *compare, "--out", str(out))
    found = json.loads((out / "comparison.json").read_text("utf-8"))
    (out / "comment.md").write_text(_comment(found, base), "utf-8")


def _comment(found: dict[str, Any], base: str) -> str:
    here, there = (found["models"][letter]["metrics"] for letter in "AB")
    lines = [
        f"**{found['data']['name']}**, {found['data']['split']}, "
        f"{found['data']['counts']['pictures']} pictures, intervals of {found['confidence']:.0%}",
        "",
        f"| metric | here | {base} | difference |",
        "|---|---|---|---|",
    ]
    for key, one in found["differences"].items():
        values = f"{here[key]['value']:.4f} | {there[key]['value']:.4f}"
        lines.append(
            f"| {key} | {values} | {one['value']:+.4f} ({one['low']:+.4f} to {one['high']:+.4f}) |"
        )
    same = found["models"]["A"]["model_digest"] == found["models"]["B"]["model_digest"]
    lines += ["", "The two models are the same bytes." if same else "The models differ."]
    return "\n".join([*lines, "Plots and pictures: the artifact `report` of this run.", ""])


@task
def comment(context: Context) -> None:
    """Put reports/comment.md under PULL_REQUEST, in the place of the last one."""
    number = os.environ.get("PULL_REQUEST", "")
    if not number.isdecimal():
        sys.exit("set PULL_REQUEST to the number of a pull request")
    words = ["--edit-last", "--create-if-none", "--body-file", "reports/comment.md"]
    context.run(shlex.join(["gh", "pr", "comment", number, *words]), echo=True)


@contextmanager
def _checkout(revision: str) -> Iterator[str]:
    """A folder with the files of a revision, as long as it is needed."""
    with tempfile.TemporaryDirectory() as folder:
        name = ["git", "rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}"]
        commit = subprocess.run(name, capture_output=True, text=True, check=True).stdout.strip()
        add = ["git", "worktree", "add", "--detach", "--quiet", f"{folder}/tree", commit]
        subprocess.run(add, check=True)
        try:
            yield f"{folder}/tree"
        finally:
            remove = ["git", "worktree", "remove", "--force", f"{folder}/tree"]
            subprocess.run(remove, check=True)


@task
def docs(context: Context) -> None:
    """Make the site of docs/ in site/."""
    run(context, "--group", "docs", "mkdocs", "build", "--strict", "--quiet")


@task
def workflows(context: Context) -> None:
    """Check the workflows of .github."""
    run(context, "actionlint")
    run(context, "zizmor", "--offline", "--quiet", ".github")


@task(name="test-oldest-torch")
def test_oldest_torch(context: Context) -> None:
    """Run the tests that need PyTorch with the oldest one that is allowed."""
    old = ["--with", "torch==2.10.0", "--with", "torchvision==0.25.0"]
    run(context, "--isolated", *old, "pytest", "-q", "tests/unit/models", "tests/unit/jobs")


def _dvc(context: Context, *words: str) -> None:
    run(context, "--group", "data", "dvc", *words)


def _remote() -> str:
    """The address of DVC's default remote; ends where it cannot be reached for lack of a login."""
    from pulmo.config.settings import shown

    listed = [line.split() for line in _told("remote", "list") if line.endswith("(default)")]
    name, address = listed[0][:2] if listed else sys.exit("no default remote: dvc remote add -d …")
    begins = f"remote.{name}."
    lines = (line.removeprefix(begins) for line in _told("config", "--list"))
    options = dict(line.partition("=")[::2] for line in lines)
    if missing := missing_login(address, options, Path.home()):
        sys.exit(missing)
    return shown(address)


def _told(*words: str) -> list[str]:
    asked = ["uv", "run", "--group", "data", "dvc", *words]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.splitlines()


def missing_login(address: str, options: Mapping[str, str], home: Path) -> str | None:
    """Which credential a remote needs that is nowhere, and how to get it; None where one is."""
    if address.startswith("gs://"):
        known = (os.environ.get("STORAGE_EMULATOR_HOST"), os.environ.get(CREDENTIAL))
        if any(known) or "credentialpath" in options or (home / LOGIN).exists():
            return None
        return (
            f"{address} needs a service account: set {CREDENTIAL} to the path of its key file, "
            "or run: gcloud auth application-default login"
        )
    if address.startswith("gdrive://"):
        if importlib.util.find_spec("dvc_gdrive") is None:
            return (
                f"{address} needs a package that is not installed: uv add --group data dvc-gdrive"
            )
        names = ("gdrive_service_account_json_file_path", "gdrive_user_credentials_file")
        known = (os.environ.get("GDRIVE_CREDENTIALS_DATA"), *(options.get(name) for name in names))
        if any(known):
            return None
        return (
            f"{address} needs a service account: dvc remote modify --local NAME {names[0]} FILE, "
            "or set GDRIVE_CREDENTIALS_DATA to what is in its key file"
        )
    return None


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
        run(context, "main.py", "data", "data=phantom", PULMO_DATA_DIR=folder)
        (drawn,) = Path(folder, "phantom/raw").iterdir()
        drawn.rename("data/raw")
    _dvc(context, "commit", "--quiet", "data/raw.dvc")


@task
def repro(context: Context) -> None:
    """Data to report by DVC: only the stages whose data, code or configuration changed."""
    _dvc(context, "repro")


@task(name="data-changes", help={"base": "the commit or branch to compare with"})
def data_changes(context: Context, base: str) -> None:
    """What changed in data/raw since BASE: class counts, the split doctor, a short training."""
    pipeline = yaml.safe_load(Path("dvc.yaml").read_text("utf-8"))["vars"][0]
    chosen = shlex.split(pipeline["data"])
    print(f"from {_remote()}")
    with _checkout(base) as folder:
        for place in (folder, "."):
            cache = [
                "dvc",
                "--cd",
                place,
                "cache",
                "dir",
                "--local",
                str(Path(".dvc/cache").resolve()),
            ]
            run(context, "--group", "data", *cache)
            run(context, "--group", "data", "dvc", "--cd", place, "pull", "data/raw.dvc")
        before = [word.replace("data/raw", f"{folder}/data/raw") for word in chosen]
        run(context, "main.py", "data", *before)
        run(context, "main.py", "data", *chosen)
    run(context, "main.py", "validate", *chosen)
    run(context, "main.py", "train", *chosen, "debug=fast")
