import difflib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from pulmo import __version__, errors
from pulmo.main import EXIT_CODES, app, exit_code

Cli = Callable[..., tuple[int, str, str]]

GOLDEN = Path(__file__).with_name("command_line.txt")


def surface(command: Any, path: str) -> Iterator[str]:
    """Every command with its arguments and options, one a line."""
    words = [path]
    for one in command.params:
        if one.name == "help":
            continue
        many = "..." if one.multiple or one.nargs == -1 else ""
        if one.param_type_name == "argument":
            word = f"{one.metavar or one.name}{many}"
        else:
            word = "|".join(one.opts) + ("" if one.is_flag else f"=VALUE{many}")
        words.append(word if one.required else f"[{word}]")
    yield " ".join(words)
    for name, inner in sorted(getattr(command, "commands", {}).items()):
        yield from surface(inner, f"{path} {name}")


def test_the_command_line_is_the_one_that_was_agreed() -> None:
    found = "\n".join(surface(typer.main.get_command(app), "pulmo")) + "\n"
    agreed = GOLDEN.read_text(encoding="utf-8")
    difference = "\n".join(difflib.unified_diff(agreed.splitlines(), found.splitlines()))
    assert found == agreed, f"if this is meant, change {GOLDEN.name}:\n{difference}"


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    inner = getattr(command, "commands", {})
    if not inner:
        yield path
    for name, one in inner.items():
        yield from commands(one, (*path, name))


@pytest.mark.parametrize("path", list(commands(typer.main.get_command(app))), ids=" ".join)
def test_every_verb_has_help_with_an_example(cli: Cli, path: tuple[str, ...]) -> None:
    code, out, _ = cli(*path, "--help")
    assert code == 0
    assert f"Example:\n    pulmo {' '.join(path)}" in out


def test_every_error_has_an_exit_code() -> None:
    found = {
        one
        for one in vars(errors).values()
        if isinstance(one, type) and issubclass(one, errors.PulmoError)
    }
    assert found <= set(EXIT_CODES)
    assert exit_code(errors.ConfigError("")) == 2
    assert exit_code(errors.RefusedError("")) == 3
    assert exit_code(errors.NotFoundError("")) == 1
    assert exit_code(FileNotFoundError()) == 1


def test_the_version_is_told(cli: Cli) -> None:
    assert cli("--version") == (0, f"pulmo {__version__}\n", "")


def test_an_error_is_one_sentence_on_stderr(cli: Cli) -> None:
    code, out, err = cli("train", "trainer.max_epoch=3")
    assert (code, out) == (2, "")
    assert err.startswith("error: unknown key 'trainer.max_epoch'")
    assert "did you mean 'trainer.max_epochs'?" in err
    assert err.count("\n") == 1


def test_the_traceback_is_shown_when_asked_for(monkeypatch: pytest.MonkeyPatch, cli: Cli) -> None:
    monkeypatch.setattr("sys.argv", ["pulmo", "--verbose", "train", "trainer.max_epoch=3"])
    from pulmo.main import run

    with pytest.raises(errors.ConfigError):
        run()


@pytest.mark.parametrize(
    "arguments", [["trian"], ["train", "--stag"], ["evaluate", "--split", "x"]]
)
def test_wrong_usage_ends_with_two(cli: Cli, arguments: list[str]) -> None:
    code, out, err = cli(*arguments)
    assert (code, out) == (2, "")
    assert "Usage:" in err


def test_a_near_verb_is_suggested(cli: Cli) -> None:
    assert "Did you mean 'train'" in cli("trian")[2]


def test_the_shown_configuration_is_the_one_that_would_run(cli: Cli, tmp_path: Path) -> None:
    code, out, _ = cli("config", "show", "train", "data=folder", "data.root=/a b", "--json")
    told = json.loads(out)
    assert code == 0
    assert told["config"]["data"]["root"] == "/a b"
    assert told["dataset"] == "data/folder"
    code, out, _ = cli("config", "show", "train", "data=folder", "data.root=/a b")
    assert "# data set: data/folder" in out.splitlines()
    assert "'data.root=/a b'" in out.splitlines()
    assert list(tmp_path.iterdir()) == []


def test_a_quickstart_draws_its_pictures_unless_told_otherwise(cli: Cli) -> None:
    assert json.loads(cli("config", "show", "quickstart", "--json")[1])["dataset"] == "data/phantom"
    named = json.loads(cli("config", "show", "quickstart", "data=folder", "--json")[1])
    assert named["dataset"] == "data/folder"


def test_secrets_are_never_shown(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULMO_REGISTRY_URL", "postgresql://me:secret@host/db")
    assert "secret" not in "".join(map(str, cli("config", "show", "train")))


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.mark.parametrize(("module", "told"), [("hydra", True), ("hydra.core", False)])
def test_what_trains_and_is_not_installed_is_named(module: str, told: bool) -> None:
    program = (
        f"import sys; sys.modules['{module}'] = None; sys.argv = ['pulmo', 'train']\n"
        "from pulmo.main import run; run()"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, env=environment(), text=True, check=False)
    assert done.returncode == 1
    sentence = (
        f"error: this needs {module}, which is not installed: `uv sync` brings all that trains\n"
    )
    assert (done.stderr == sentence, "Traceback" in done.stderr) == (told, not told)


def test_sigterm_ends_with_143() -> None:
    program = (
        "import sys, pulmo.main as m\n"
        "@m.app.command()\n"
        "def wait():\n"
        "    import time; print('ready', flush=True); time.sleep(60)\n"
        "sys.argv = ['pulmo', 'wait']; m.run()\n"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment()) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 143


def test_an_interrupt_ends_with_130(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pulmo.config.compose.compose", interrupted)
    assert cli("train")[0] == 130


def test_a_closed_pipe_is_quiet() -> None:
    program = (
        "import sys; sys.argv = ['pulmo', 'config', 'show', 'train']\n"
        "from pulmo.main import run; run()"
    )
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-c", program],
        stdout=write,
        stderr=subprocess.PIPE,
        env=environment(),
        check=False,
    )
    os.close(write)
    assert done.stderr == b""
    assert done.returncode == 1


IMPORT_ALL = """
import importlib, json, logging, os, pkgutil, sys
import pulmo
names = [m.name for m in pkgutil.walk_packages(pulmo.__path__, "pulmo.")]
names = [name for name in names if ".migrations" not in name]  # Alembic's, no modules to import
for name in names:
    importlib.import_module(name)
logger = logging.getLogger("pulmo")
print(json.dumps([len(names), os.listdir("."), len(logger.handlers), logger.level,
                  len(logging.getLogger().handlers)]))
"""


def test_importing_a_module_does_nothing_else(tmp_path: Path) -> None:
    plain = {k: v for k, v in environment().items() if not k.startswith("COVERAGE")}  # slow here
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL],
        cwd=tmp_path,
        env={**plain, "PULMO_REGISTRY_URL": "nonsense"},
        capture_output=True,
        check=True,
    )
    count, made, handlers, level, root_handlers = json.loads(done.stdout)
    assert count > 20
    assert (made, handlers, level, root_handlers) == ([], 0, 0, 0)
