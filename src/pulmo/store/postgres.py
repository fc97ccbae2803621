"""Postgres: which driver speaks to it, and what it says in plain words."""

from importlib.util import find_spec

from sqlalchemy import URL

from pulmo.errors import ConfigError

_NAMES = ("postgresql", "postgres")
_DRIVERS = ("pg8000", "psycopg", "psycopg2")


def with_driver(target: URL) -> URL:
    """`postgres://…` and `postgresql://…` with the driver that is installed; others as they are.

    Raises ConfigError where the one that is named, or every one, is missing.
    """
    name, _, driver = target.drivername.partition("+")
    if name not in _NAMES:
        return target
    wanted = (driver,) if driver else _DRIVERS
    found = next((one for one in wanted if find_spec(one) is not None), None)
    if found is None:
        raise ConfigError(
            f"{target.render_as_string(hide_password=True)} needs a driver that is not installed "
            f"({wanted[0]}): `uv sync --group postgres` brings pg8000"
        )
    return target.set(drivername=f"postgresql+{found}")


def words(error: BaseException) -> str:
    """What an error says: pg8000 hands on the server's fields, of which M is the message."""
    fields = error.args[0] if error.args else None
    said = str(fields.get("M", fields) if isinstance(fields, dict) else error).strip()
    return said.splitlines()[0] if said else type(error).__name__
