"""Where settings come from: the environment, `NAME_FILE`, and a folder of shared defaults."""

import os
import sys
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import SecretBytes, SecretStr, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SecretsSettingsSource, SettingsConfigDict
from pydantic_settings import PydanticBaseSettingsSource as Source


class FileSource(Source):
    """Reads a setting from the file that `NAME_FILE` names, as orchestrators mount secrets."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Return the file's text, or the ValueError that is to be reported for the setting."""
        name = field_name.upper()
        path = os.environ.get(f"{name}_FILE")
        value: str | ValueError | None = None
        if path is not None and name in os.environ:
            value = ValueError(f"{name} and {name}_FILE are both set: keep one")
        elif path is not None:
            try:
                value = Path(path).read_text("utf-8").strip()
            except (OSError, ValueError) as error:
                value = ValueError(f"{name}_FILE cannot be read: {error}")
        return value, field_name, False

    def __call__(self) -> dict[str, Any]:
        fields = self.settings_cls.model_fields.items()
        values = {name: self.get_field_value(field, name)[0] for name, field in fields}
        return {name: value for name, value in values.items() if value is not None}


class EnvironmentSettings(BaseSettings):
    """Base of every package's settings, which the service joins to one class.

    First found wins: `NAME_FILE`, the environment, a file in the folder `CONFIG_DIR`, the default.
    """

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(
        frozen=True, extra="ignore", validate_default=True, env_ignore_empty=True
    )

    @classmethod
    def settings_customise_sources(  # type: ignore[override]  # it is called with these names
        cls,
        settings_cls: type[BaseSettings],
        init_settings: Source,
        env_settings: Source,
        **_others: Source,
    ) -> tuple[Source, ...]:
        """Put the sources in the order of their precedence."""
        folder = os.environ.get("CONFIG_DIR")
        shared = (SecretsSettingsSource(settings_cls, secrets_dir=folder),) if folder else ()
        return init_settings, FileSource(settings_cls), env_settings, *shared

    @field_validator("*", mode="before")
    @classmethod
    def raise_source_errors(cls, value: object) -> object:
        """Raise what a source returned in place of a value, so that it is one error of all."""
        if isinstance(value, ValueError):
            raise value
        return value

    @classmethod
    def load(cls) -> Self:
        """Read the settings; print a line for each invalid one and exit with status 2."""
        folder = os.environ.get("CONFIG_DIR")
        if folder and not Path(folder).is_dir():
            sys.stderr.write(f"configuration: CONFIG_DIR: {folder} is not a folder\n")
            raise SystemExit(2)
        try:
            return cls()
        except ValidationError as invalid:
            errors = invalid.errors(include_url=False, include_context=False, include_input=False)
        for error in errors:
            # A default that is derived from an invalid value is no error of its own.
            if error["type"] != "default_factory_not_called":
                name = ".".join(str(part).upper() for part in error["loc"]) or "environment"
                sys.stderr.write(f"configuration: {name}: {error['msg']}\n")
        raise SystemExit(2)

    def secrets(self) -> list[str]:
        """Return the values that must not be in any output."""
        values = [getattr(self, name) for name in type(self).model_fields]
        secrets = [value for value in values if isinstance(value, SecretStr | SecretBytes)]
        return [str(secret.get_secret_value()) for secret in secrets if secret]
