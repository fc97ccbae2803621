"""The case under test: `pulmo test-staged REF` names it in the environment."""

from collections.abc import Callable

import pytest

from pulmo.config.settings import Settings
from pulmo.core.ports import Check
from pulmo.jobs import staged
from pulmo.wiring import open_registry


@pytest.fixture(scope="session")
def case() -> staged.Case:
    """The registered candidate, the champion and the terms."""
    ref, terms = staged.read_environment()
    settings = Settings()
    registry = open_registry(settings, read_only=True)
    return staged.open_case(registry, ref, terms, settings.data_dir)


@pytest.fixture
def show(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """Write what was found into the report and fail on a check that says no."""

    def record(*checks: Check) -> None:
        record_property("detail", "; ".join(check.detail for check in checks))
        failed = [f"{check.name}: {check.detail}" for check in checks if not check.passed]
        assert not failed, "; ".join(failed)

    return record
