import pytest
from pydantic import ValidationError

from pulmo.config import hooks
from pulmo.errors import ConfigError

SECRET, OLD = "secret-0123456789", "before-0123456789"


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in hooks.HookSettings.model_fields:
        monkeypatch.delenv(f"PULMO_HOOKS_{name.upper()}", raising=False)


def test_only_this_machine_is_told_unless_somebody_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert hooks.load().targets == ("local",)
    monkeypatch.setenv("PULMO_HOOKS_TARGETS", "local, github https://hooks.example/x")
    assert hooks.load().targets == ("local", "github", "https://hooks.example/x")


def test_a_secret_or_two_of_them_during_a_rotation(monkeypatch: pytest.MonkeyPatch) -> None:
    assert hooks.load().secret == ()
    monkeypatch.setenv("PULMO_HOOKS_SECRET", f"{SECRET} {OLD}")
    assert hooks.plain(hooks.load().secret) == (SECRET, OLD)


def test_no_secret_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULMO_HOOKS_SECRET", SECRET)
    monkeypatch.setenv("PULMO_HOOKS_GITHUB_TOKEN", OLD)
    told = f"{hooks.load()!r} {hooks.load()} {hooks.load().model_dump_json()}"
    assert SECRET not in told
    assert OLD not in told


@pytest.mark.parametrize("text", ["short", f"{SECRET} {OLD} {SECRET}"])
def test_a_weak_secret_is_refused_and_not_repeated(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PULMO_HOOKS_WANDB_SECRET", text)
    with pytest.raises(ConfigError, match=r"PULMO_HOOKS_WANDB_SECRET is wrong: .*16") as told:
        hooks.load()
    assert text not in str(told.value)
    assert told.value.__suppress_context__


def test_a_repository_is_owner_and_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULMO_HOOKS_GITHUB_REPOSITORY", "me/../mine")
    with pytest.raises(ConfigError, match="PULMO_HOOKS_GITHUB_REPOSITORY"):
        hooks.load()


def test_settings_never_change() -> None:
    with pytest.raises(ValidationError):
        hooks.load().targets = ()  # type: ignore[misc]


def test_a_token_is_a_word_without_what_its_file_ends_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULMO_HOOKS_GITHUB_TOKEN", "ghp_0123\n")
    token = hooks.load().github_token
    assert token is not None
    assert token.get_secret_value() == "ghp_0123"
    monkeypatch.setenv("PULMO_HOOKS_GITHUB_TOKEN", "ghp_01\n23")
    with pytest.raises(ConfigError, match="visible characters") as told:
        hooks.load()
    assert "ghp_01" not in str(told.value)


@pytest.mark.parametrize("text", ["whsec_!!!!!!!!!!!!", "whsec_c2hvcnQ=", "whsec_AAAAAAAAAAAAAA"])
def test_a_secret_in_base64_is_base64_and_long_enough(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PULMO_HOOKS_SECRET", "whsec_c2l4dGVlbi1sZXR0ZXJzIQ==")
    assert len(hooks.load().secret) == 1
    monkeypatch.setenv("PULMO_HOOKS_SECRET", text)
    with pytest.raises(ConfigError, match="PULMO_HOOKS_SECRET"):
        hooks.load()


def test_an_empty_variable_is_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULMO_HOOKS_TARGETS", "")
    monkeypatch.setenv("PULMO_HOOKS_GITHUB_REPOSITORY", "")
    assert hooks.load() == hooks.HookSettings()
