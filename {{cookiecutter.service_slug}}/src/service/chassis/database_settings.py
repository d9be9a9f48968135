"""The types of the database's settings, without its libraries: the server's supervisor reads settings too."""

from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr

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


Url = Annotated[
    SecretStr | None,
    AfterValidator(_with_driver),
    Field(description="`postgresql://user@host/name`; without it SQLite in `.data`"),
]
Password = Annotated[SecretStr | None, Field(description="Password of the database's user, if the URL has none")]
Timeout = Annotated[
    float, Field(ge=0.1, le=600, description="Seconds a statement may take, 0.4 of it for a lock; then 503")
]
CursorKey = Annotated[
    SecretStr | None, Field(description="Signs the cursors of lists; without it a key made from URL and password does")
]
