"""deploy/compose.yaml as a file: what its services may rely on; no engine is needed."""

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from fastapi.testclient import TestClient

from pulmo.config.settings import Settings
from pulmo.core.bundle import Bundle
from pulmo.serving.access import known_hosts
from pulmo.serving.app import create_app
from pulmo.serving.limits import Limits
from pulmo.serving.models import Pinned, Present
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


def test_an_open_api_is_asked_by_its_own_names_alone(
    services: dict[str, Any], toy_bundle: Bundle
) -> None:
    lines = (DEPLOY / "compose.env").read_text("utf-8").splitlines()
    told = dict(line.split("=", 1) for line in lines if not line.startswith("#"))
    settings = Settings(
        allow_anonymous=told["PULMO_ALLOW_ANONYMOUS"] == "1", hosts=told["PULMO_HOSTS"]
    )
    command = services["api"]["command"]
    hosts = known_hosts(settings, command[command.index("--host") + 1], keyed=False)
    published = services["api"]["ports"][0].partition(":")[0]
    asked = urlsplit(services["frontend"]["environment"]["PULMO_API_URL"]).hostname
    app = create_app(settings, Present(Pinned(toy_bundle)), hosts=hosts)
    with TestClient(app, client=("10.0.0.1", 1)) as client:
        for name in (published, "localhost", str(asked)):
            answer = client.get("/model/info", headers={"Host": f"{name}:8000"})
            assert answer.status_code == 200, name
        strange = client.get("/model/info", headers={"Host": "page.example:8000"})
    assert strange.status_code == 400
