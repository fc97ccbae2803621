"""Settings of the service on Google Cloud: what is missing, malformed or unsafe is told by name."""

import pytest

from pulmo.config.cloud import load
from pulmo.errors import ConfigError

ACCOUNT = "pulmo-run@some-project.iam.gserviceaccount.com"
GIVEN = {
    "PROJECT": "some-project",
    "REGION": "europe-west1",
    "SERVICE_ACCOUNT": ACCOUNT,
    "INVOKER": ACCOUNT,
}


@pytest.fixture(autouse=True)
def _given(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in GIVEN.items():
        monkeypatch.setenv(f"PULMO_GCP_{name}", value)


def test_what_is_not_given_has_a_safe_default() -> None:
    cloud = load()
    assert (cloud.project, cloud.region, cloud.service) == ("some-project", "europe-west1", "pulmo")
    assert not cloud.public
    assert cloud.least == 0


@pytest.mark.parametrize("name", ["PROJECT", "REGION", "SERVICE_ACCOUNT"])
def test_what_is_missing_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(f"PULMO_GCP_{name}")
    with pytest.raises(ConfigError, match=f"PULMO_GCP_{name}"):
        load()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PROJECT", "--quiet"),
        ("PROJECT", "some project"),
        ("PROJECT", "some-project\n"),
        ("REGION", "europe-west1,us-east1"),
        ("REGION", "europe-west1 --allow-unauthenticated"),
        ("REPOSITORY", "../other"),
        ("SERVICE", "Pulmo"),
        ("SERVICE", "a" * 31),
        ("SERVICE_ACCOUNT", "someone@example.org"),
        ("SERVICE_ACCOUNT", f"{ACCOUNT},other"),
        ("API_KEYS", "the-key-itself"),
        ("API_KEYS", "keys:latest,OTHER=secret:1"),
        ("CPU", "0"),
        ("ANSWER_MS", "fast"),
    ],
)
def test_a_value_that_could_be_something_else_is_refused(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"PULMO_GCP_{name}", value)
    with pytest.raises(ConfigError, match=f"PULMO_GCP_{name}"):
        load()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"PUBLIC": "1"}, "PULMO_GCP_API_KEYS"),
        ({"INVOKER": ""}, "PULMO_GCP_INVOKER"),
        ({"API_KEYS": "keys:3"}, "PULMO_GCP_CHECK_KEY"),
    ],
)
def test_who_may_ask_is_never_left_open(
    changes: dict[str, str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in changes.items():
        monkeypatch.setenv(f"PULMO_GCP_{name}", value)
    with pytest.raises(ConfigError, match=told):
        load()
