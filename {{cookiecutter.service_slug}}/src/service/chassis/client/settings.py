"""The settings of calls to other services: of all of them, and of each by its name."""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, Field, HttpUrl, SecretStr

from service.chassis.settings import EnvironmentSettings


def _check_url(url: HttpUrl) -> HttpUrl:
    if url.username or url.password or url.query is not None or url.fragment is not None:
        raise ValueError("must hold no credentials and no query; a token has its own setting")
    return url


def _check_token(token: SecretStr | None) -> SecretStr | None:
    if token and not re.fullmatch("[!-~]+", token.get_secret_value()):
        raise ValueError("must be printable ASCII characters without spaces")
    return token


IS_CALLEE = AfterValidator(_check_url)
CalleeUrl = Annotated[HttpUrl, IS_CALLEE]
CalleeToken = Annotated[SecretStr | None, AfterValidator(_check_token)]


class ClientSettings(EnvironmentSettings):
    """The limits of all calls to other services.

    A field `NAME_url: CalleeUrl` lets the service call another. With it may stand `NAME_token:
    CalleeToken`, its bearer token, and as `NAME_timeout` any of these limits for it alone.
    """

    call_timeout: float = Field(2, gt=0, le=300)
    """Seconds for a call to another service, retries included"""
    call_connect_timeout: float = Field(0.5, gt=0, le=300)
    """Seconds of it to connect"""
    call_read_timeout: float = Field(2, gt=0, le=300)
    """Seconds of it to wait for the next part of the answer"""
    call_max_size: int = Field(1_048_576, ge=1, le=1_073_741_824)
    """Maximum answer in bytes"""
    call_concurrency: int = Field(8, ge=1, le=1000)
    """Calls to one service at once; lower than `CONCURRENCY`, so that its failure leaves slots"""

    @classmethod
    def callees(cls) -> list[str]:
        """Return the names of the services that are called."""
        fields = cls.model_fields.items()
        return [name.removesuffix("_url") for name, field in fields if IS_CALLEE in field.metadata]

    def of(self, callee: str, setting: str) -> Any:
        """Return a callee's own setting, or that of all; None where there is neither."""
        return getattr(self, f"{callee}_{setting}", getattr(self, f"call_{setting}", None))
