import json
import logging
from pathlib import Path

import pytest

from pulmo import logs

pytestmark = pytest.mark.usefixtures("restored_logging")


def test_messages_go_bare_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup()
    logger = logs.get_logger("pulmo.some")
    logger.info("hello")
    logger.debug("hidden")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "hello\n")


def test_verbose_messages_say_where_they_come_from(capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup(verbose=True)
    logs.get_logger("pulmo.some").debug("details")
    assert "DEBUG pulmo.some: details" in capsys.readouterr().err


def test_setting_up_twice_says_everything_once(capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup()
    logs.setup()
    logs.get_logger("pulmo.some").info("once")
    assert capsys.readouterr().err == "once\n"


def test_a_file_hears_everything_until_it_is_removed(tmp_path: Path) -> None:
    logs.setup()
    handler = logs.add_file(tmp_path / "run.log")
    logs.get_logger("pulmo.some").warning("ä")
    logs.remove(handler)
    logs.get_logger("pulmo.some").warning("later")
    text = (tmp_path / "run.log").read_text(encoding="utf-8")
    assert text.endswith("WARNING pulmo.some: ä\n")
    assert handler not in logging.getLogger("pulmo").handlers


def test_lines_for_programs_are_json_with_fields_and_faults(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = logging.getLogger("uvicorn.error")  # as in a process without Streamlit
    monkeypatch.setattr(server, "handlers", [])
    monkeypatch.setattr(server, "propagate", True)
    logs.setup()
    logger = logs.get_logger(logs.ACCESS)
    logger.info("hidden")
    logs.as_json()
    logger.info("two\nlines %d", 3, extra={"fields": {"status": 200}})
    try:
        raise KeyError("x")
    except KeyError:
        server.exception("failed")
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert first.keys() == {"time", "level", "logger", "message", "status"}
    assert (first["message"], first["level"]) == ("two\nlines 3", "info")
    assert (second["message"], second["error"].splitlines()[-1]) == ("failed", "KeyError: 'x'")
    logging.getLogger("uvicorn").handlers = []
    logger.setLevel(logging.NOTSET)
