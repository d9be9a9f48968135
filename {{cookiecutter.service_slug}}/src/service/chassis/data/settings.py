"""The settings of the database; its libraries are not needed to read them."""

from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr

from service.chassis.settings import EnvironmentSettings

DRIVER = "postgresql+psycopg"


def _with_driver(url: SecretStr | None) -> SecretStr | None:
    """Name the driver in a URL as platforms hand it out; refuse other databases."""
    if url is None:
        return None
    scheme, _, rest = url.get_secret_value().partition("://")
    if scheme in ("postgres", "postgresql", DRIVER) and rest:
        return SecretStr(f"{DRIVER}://{rest}")
    if scheme != "sqlite" or not rest.startswith("/"):
        raise ValueError("must begin with postgresql:// or sqlite:///")
    return url


class DatabaseSettings(EnvironmentSettings):
    """Which database, and how long it may take."""

    database_url: Annotated[SecretStr | None, AfterValidator(_with_driver)] = Field(
        None, description="`postgresql://user@host/name`; unset: SQLite in `.data`"
    )
    database_password: SecretStr | None = Field(
        None, description="Password of the database's user, if the URL has none"
    )
    database_timeout: float = Field(
        5,
        ge=0.1,
        le=600,
        description="Statement timeout in seconds, of which 0.4 for a lock; then 503",
    )
    cursor_key: SecretStr | None = Field(
        None,
        min_length=16,
        description="Signs the cursors of lists; unset: derived from the database's password,"
        " or random at each start",
    )
