"""A server in the process, over the toy bundle."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from pulmo.config.settings import Settings
from pulmo.core.bundle import Bundle
from pulmo.serving.app import create_app
from pulmo.serving.limits import Limits
from pulmo.serving.models import Pinned, Present

OWN = ("127.0.0.1", 50000)


@pytest.fixture
def present(toy_bundle: Bundle) -> Present:
    return Present(Pinned(toy_bundle))


@pytest.fixture
def client(present: Present) -> Iterator[TestClient]:
    with TestClient(
        create_app(Settings(), present), client=OWN, base_url="http://127.0.0.1"
    ) as client:
        yield client


@pytest.fixture
def serve(present: Present) -> Iterator[Callable[..., TestClient]]:
    """`serve(waiting=0)`: a client of a server with other limits."""
    opened = []

    def start(**limits: Any) -> TestClient:
        client = TestClient(
            create_app(Settings(), present, Limits(**limits)),
            client=OWN,
            base_url="http://127.0.0.1",
        )
        opened.append(client)
        return client.__enter__()

    yield start
    for client in opened:
        client.__exit__()
