import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pulmo.config import settings
from pulmo.core.bundle import Bundle
from pulmo.core.receipt import Receipt
from pulmo.serving.models import Model
from pulmo.serving.receipts import make_receipt
from pulmo.wiring import open_receipts, open_registry

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def kept(cli: Cli, toy_bundle: Bundle, grey_png: Callable[[int], bytes], tmp_path: Path) -> Receipt:
    """A receipt in the database of the folder where commands run, and its picture there."""
    receipt = make_receipt(
        Model(toy_bundle).answered([grey_png(200)], explain=False)[0], details=True
    )
    open_receipts(settings.load())().write([receipt])
    (tmp_path / "picture.png").write_bytes(grey_png(200))
    return receipt


def test_a_receipt_is_replayed_with_the_registered_model(
    cli: Cli, kept: Receipt, toy_bundle: Bundle
) -> None:
    open_registry(settings.load()).register(toy_bundle.path, actor="me")
    code, out, err = cli("receipt", kept.id, "picture.png")
    assert (code, err) == (0, "")
    assert out.startswith(f"{kept.model} answered at {kept.at:%Y-%m-%d}")
    assert [line.split()[-1] for line in out.splitlines()[2:]] == ["yes"] * 5
    told = json.loads(cli("receipt", kept.id, "picture.png", "--json")[1])
    assert (told["id"], told["same"], len(told["lines"])) == (kept.id, True, 5)


def test_another_picture_ends_with_three(
    cli: Cli, kept: Receipt, toy_bundle: Bundle, grey_png: Callable[[int], bytes], tmp_path: Path
) -> None:
    (tmp_path / "other.png").write_bytes(grey_png(5))
    code, out, err = cli("receipt", kept.id, "other.png", "--model", toy_bundle.path)
    assert code == 3
    assert "NO" in out
    assert "does not stand: picture, pixels, prediction, probabilities differ" in err


@pytest.mark.parametrize("log", ["lines.jsonl", "-"])
def test_receipts_are_read_from_lines(
    cli: Cli,
    kept: Receipt,
    toy_bundle: Bundle,
    log: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PULMO_LOG_URL", "stdout")
    text = f"hello\n{kept.model_dump_json()}\n"
    (tmp_path / "lines.jsonl").write_text(text, encoding="utf-8")
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    arguments = ("receipt", kept.id, "picture.png", "--model", toy_bundle.path)
    assert cli(*arguments, "--log", log)[0] == 0
    code, _, err = cli(*arguments)
    assert code == 2
    assert "give the server's lines with --log" in err


def test_what_is_not_there_is_named(cli: Cli, kept: Receipt, tmp_path: Path) -> None:
    assert "no receipt nothing" in cli("receipt", "nothing", "picture.png")[2]
    (tmp_path / "folder").mkdir()
    for path, why in (
        ("nowhere.png", "No such file or directory"),
        ("folder", "Is a directory"),
    ):
        code, _, err = cli("receipt", kept.id, path)
        assert code == 1
        assert err == (
            f"error: {path} cannot be read ({why}): give the picture that was sent, as a file\n"
        )
        code, _, err = cli("receipt", kept.id, "picture.png", "--log", path)
        assert code == 1
        assert err == f"error: {path} cannot be read ({why}): give a file with the server's lines\n"
