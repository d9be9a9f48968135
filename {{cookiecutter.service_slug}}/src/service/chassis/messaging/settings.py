"""The settings of the broker; its libraries are loaded only by who talks to it."""

import os
import re
from typing import Annotated
from urllib.parse import parse_qsl, urlsplit

from pydantic import AfterValidator, Field, SecretStr

from service.chassis.settings import EnvironmentSettings

FILES = {"cafile", "certfile", "keyfile"}  # what an amqps:// may name
FORM = (
    "must be amqp://user:password@host:5672/vhost, or amqps://;"
    " write an @ or / of the password as %40 or %2F"
)


def _check_url(secret: SecretStr | None) -> SecretStr | None:
    """Refuse what would fail or be ignored; no message has a part of the password."""
    if secret is None:
        return None
    try:
        url = urlsplit(secret.get_secret_value())
        is_plain = url.port != 0 and url.path.count("/") <= 1 and not url.fragment
    except ValueError:
        is_plain = False
    if not (
        is_plain
        and url.scheme in ("amqp", "amqps")
        and re.fullmatch(r"[\w.-]+|[0-9a-fA-F:.]+", url.hostname or "")
        and url.netloc.count("@") <= 1
    ):
        raise ValueError(FORM)
    for name, value in parse_qsl(url.query, keep_blank_values=True):
        if name not in FILES or url.scheme != "amqps":
            raise ValueError(f"knows no option {name!r}; amqps:// has {', '.join(sorted(FILES))}")
        if not os.access(value, os.R_OK):
            raise ValueError(f"the file of its option {name} cannot be read")
    return secret


class MessagingSettings(EnvironmentSettings):
    """Which broker, and how events are handled."""

    broker_url: Annotated[SecretStr | None, AfterValidator(_check_url)] = None
    """`amqp://user@host/vhost` of RabbitMQ, for the relay and the consumer"""
    broker_password: SecretStr | None = None
    """Password of the broker's user; it comes before one in the URL"""
    consumer_concurrency: int = Field(4, ge=1, le=100)
    """Events handled at once, each of another key"""
    consumer_tries: int = Field(5, ge=1, le=20)
    """Tries to handle an event; then it is a dead letter"""
    inbox_retention: int = Field(7, ge=1, le=365)
    """Days for which an event that was handled is known and has no second effect"""

    def secrets(self) -> list[str]:
        """Return the password of the URL too."""
        url = self.broker_url.get_secret_value() if self.broker_url else ""
        password = urlsplit(url).password
        return [*super().secrets(), *([password] if password else [])]
