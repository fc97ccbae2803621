"""deploy/compose.yaml as a file: what its services may rely on; no engine is needed."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from pulmo.serving.limits import Limits
from pulmo.serving.receipts import FLUSH_SECONDS
from pulmo.serving.server import _SETTLE_SECONDS

DEPLOY = Path(__file__).parents[2] / "deploy"


@pytest.fixture
def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))["services"]
    return found


def test_a_server_is_given_the_time_that_its_end_takes(services: dict[str, Any]) -> None:
    limits = Limits()
    plan = limits.linger_s + _SETTLE_SECONDS + limits.finish_s + FLUSH_SECONDS
    assert float(services["api"]["stop_grace_period"].removesuffix("s")) > plan
