"""The settings of the database; its libraries are loaded only to check an address."""

import re
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field, SecretStr

from service.chassis.settings import EnvironmentSettings

if TYPE_CHECKING:
    from sqlalchemy import URL

DRIVER = "postgresql+psycopg"


# What the service itself sets for each session.
SESSION = re.compile(r"(?i)(statement|lock|idle_in_transaction_session)_timeout|timezone")


def _check_url(secret: SecretStr | None) -> SecretStr | None:
    """Name the driver in a URL as platforms hand it out; refuse what would fail or be ignored.

    No message has a part of the password.
    """
    if secret is None:
        return None
    scheme, _, rest = secret.get_secret_value().strip().partition("://")
    if scheme == "sqlite" and rest.startswith("/") and not re.search(r"\?|:memory:|^/$", rest):
        return secret
    if scheme not in ("postgres", "postgresql", DRIVER) or not rest:
        raise ValueError("must begin with postgresql://, or be sqlite:/// and a file")
    from sqlalchemy import exc, make_url

    try:
        url = make_url(f"{DRIVER}://{rest}")
        is_plain = url.port != 0 and not re.search(r"[,\s]", url.host or "")
    except (ValueError, exc.ArgumentError):
        is_plain = False
    # A second @ would make the rest of a password part of the host, which is logged.
    if not is_plain or rest.count("@") > 1:
        raise ValueError(
            "must be postgresql://user:password@host:port/name; write an @ of the password as %40,"
            " several hosts as ?host=first:5432&host=second:5432"
        )
    _check_options(url)
    return SecretStr(url.render_as_string(hide_password=False))


def _check_options(url: "URL") -> None:
    """Let PostgreSQL's client read the options of a URL; it connects to nothing."""
    from psycopg.conninfo import make_conninfo
    from psycopg.pq import Conninfo
    from psycopg.pq import PGconn

    known = {option.keyword.decode() for option in Conninfo.get_defaults()} - {"password"}
    for name, values in url.normalized_query.items():
        if name not in known:
            raise ValueError(f"PostgreSQL's client knows no option {name!r}")
        if len(values) > 1 and name != "host":
            raise ValueError(f"the option {name} is given twice")
        if re.search("keepalives|timeout|port", name) and not values[0].isdecimal():
            raise ValueError(f"the option {name} must be a whole number")
        if name == "options" and (own := SESSION.search(values[0])):
            raise ValueError(f"{own[0]} is not to be set in options: see DATABASE_TIMEOUT")
    _, arguments = url.get_dialect()().create_connect_args(url)
    hosts = ",".join("/dev/null" for _ in str(arguments.get("host", "")).split(","))
    nowhere = make_conninfo(**{**arguments, "host": hosts, "hostaddr": None})
    message = PGconn.connect_start(nowhere.encode()).error_message.decode()
    if not message.startswith("connection to server"):
        raise ValueError(message)


class DatabaseSettings(EnvironmentSettings):
    """Which database, and how long it may take."""

    database_url: Annotated[SecretStr | None, AfterValidator(_check_url)] = None
    """`postgresql://user@host/name`; unset: SQLite in `.data`"""
    database_password: SecretStr | None = None
    """Password of the database's user; it comes before one in the URL"""
    database_timeout: float = Field(5, ge=0.1, le=600)
    """Statement timeout in seconds, of which 0.4 for a lock; then 503"""
    cursor_key: SecretStr | None = Field(
        None,
        min_length=16,
        description="Signs the cursors of lists; unset: derived from the database's password,"
        " or random at each start",
    )

    def secrets(self) -> list[str]:
        """Return the password of the URL too."""
        from sqlalchemy import make_url

        url = self.database_url.get_secret_value() if self.database_url else "sqlite://"
        password = make_url(url).password
        return [*super().secrets(), *([password] if password else [])]
