import json
from collections.abc import Callable
from pathlib import Path

import pytest
from drifting import draw, save, with_reference

from pulmo.config import settings
from pulmo.core.bundle import Bundle
from pulmo.serving.models import Model
from pulmo.serving.receipts import make_receipt
from pulmo.wiring import open_receipts

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def bundle(toy_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return with_reference(toy_bundle, tmp_path_factory.mktemp("drift") / "bundle")


def test_pictures_like_the_validation_end_with_zero(
    cli: Cli, bundle: Bundle, tmp_path: Path
) -> None:
    save(tmp_path / "pictures", draw(40, 1))
    code, out, err = cli("drift", "pictures", "--model", bundle.path)
    assert (code, err) == (0, "")
    assert out.splitlines()[0].split() == ["feature", "validation", "now", "apart", "p", "moved"]
    assert "verdict   no drift" in out
    page = Path("runs/drift") / f"toy-{bundle.info.model_digest[:12]}" / "drift.html"
    assert page.is_file()
    assert f"report    {page}" in out


def test_drift_ends_with_three(cli: Cli, bundle: Bundle, tmp_path: Path) -> None:
    save(tmp_path / "pictures", draw(40, 1, lift=60))
    (tmp_path / "pictures/torn.png").write_bytes(b"torn")
    code, out, err = cli("drift", "pictures", "--model", bundle.path, "--out", "here")
    assert code == 3
    assert err.startswith("error: drift of embedding")
    assert "not to be believed" in out
    assert "not read  pictures/torn.png" in out
    code, out, _ = cli("drift", "pictures", "--model", bundle.path, "--out", "here", "--json")
    told = json.loads(out)
    assert (code, told["alarm"], told["out"], told["log"]) == (3, True, "here", None)
    assert told == {"out": "here", **json.loads(Path("here/drift.json").read_text("utf-8"))}


def test_what_a_server_answered_is_watched(
    cli: Cli, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save(tmp_path / "pictures", draw(30, 1))
    answers = Model(bundle).answered(
        [path.read_bytes() for path in sorted(folder.iterdir())], explain=False
    )
    receipts = [make_receipt(one, details=True) for one in answers]
    open_receipts(settings.load())().write(receipts)
    code, out, err = cli("drift", "--log", "--model", bundle.path, "--window", "20")
    assert (code, err) == (0, "")
    assert "verdict   no drift: the evidence never reached 100,000" in out
    told = json.loads(cli("drift", "--log", "--model", bundle.path, "--json")[1])
    assert told["log"]["pictures"] == 30
    code, _, err = cli("drift", "--log", "--since", "2999-01-01", "--model", bundle.path)
    assert code == 1
    assert "holds 0 receipts" in err
    monkeypatch.setenv("PULMO_LOG_URL", "stdout")
    code, _, err = cli("drift", "--log", "--model", bundle.path)
    assert (code, "names no database" in err) == (2, True)


@pytest.mark.parametrize(
    "arguments", [(), ("pictures", "--log"), ("pictures", "--since", "2026-01-01")]
)
def test_contradictions_are_wrong_usage(cli: Cli, arguments: tuple[str, ...]) -> None:
    assert cli("drift", *arguments)[0] == 2


def test_too_few_pictures_are_a_failure_that_says_how_many(
    cli: Cli, bundle: Bundle, tmp_path: Path
) -> None:
    save(tmp_path / "pictures", draw(3, 1))
    code, _, err = cli("drift", "pictures", "--model", bundle.path)
    assert (code, "at least 20 are needed" in err) == (1, True)
