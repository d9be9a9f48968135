"""Where settings come from: the environment, `NAME_FILE`, and a folder of shared defaults."""

import os
import sys
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import SecretBytes, SecretStr, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict
from pydantic_settings import PydanticBaseSettingsSource as Source


class TextSource(EnvSettingsSource):
    """The environment, and files that hold one setting each; a fault stands in a value's place."""

    def __init__(self, settings_cls: type[BaseSettings]) -> None:
        super().__init__(settings_cls)
        folder = os.environ.get("CONFIG_DIR")
        shared = {path.name.lower(): path for path in Path(folder).iterdir()} if folder else {}
        texts = {name: self._find(name, shared) for name in settings_cls.model_fields}
        self.env_vars = {**self.env_vars, **texts}

    def _find(self, name: str, shared: dict[str, Path]) -> Any:
        """Return a setting's text, or the ValueError that is to be reported for it."""
        value = self.env_vars.get(name)
        file = self.env_vars.get(f"{name}_file")
        if file and value is not None:
            return ValueError(f"{name.upper()} and {name.upper()}_FILE are both set: keep one")
        # As `docker run --env-file` leaves them.
        if value is not None and value[0] == value[-1] and value[0] in "\"'":
            return ValueError(f"remove the quotes: {value[0]} is part of the value")
        if value is None and (path := file or shared.get(name)):
            try:
                value = Path(path).read_text("utf-8", "surrogateescape").strip()
            except OSError as error:
                return ValueError(f"its file cannot be read: {error}")
        is_utf8 = value is None or value.encode(errors="ignore").decode() == value
        return value if is_utf8 else ValueError("is not UTF-8")

    def prepare_field_value(
        self, field_name: str, field: FieldInfo, value: Any, value_is_complex: bool
    ) -> Any:
        """Parse what is no scalar as JSON; return the ValueError that is to be reported."""
        if isinstance(value, ValueError):
            return value
        try:
            return super().prepare_field_value(field_name, field, value, value_is_complex)
        except ValueError:
            return ValueError('must be JSON, such as ["a", "b"]')


class EnvironmentSettings(BaseSettings):
    """Base of every package's settings, which the service joins to one class.

    First found wins: `NAME_FILE`, the environment, a file in the folder `CONFIG_DIR`, the default.
    """

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(
        frozen=True,
        extra="ignore",
        validate_default=True,
        env_ignore_empty=True,
        use_attribute_docstrings=True,
    )

    @classmethod
    def settings_customise_sources(  # type: ignore[override]  # it is called with these names
        cls, settings_cls: type[BaseSettings], init_settings: Source, **_others: Source
    ) -> tuple[Source, ...]:
        """Put what is given in Python first."""
        return init_settings, TextSource(settings_cls)

    @field_validator("*", mode="before")
    @classmethod
    def raise_source_errors(cls, value: object) -> object:
        """Raise what stands in place of a value, so that it is one error of all."""
        if isinstance(value, ValueError):
            raise value
        return value

    @classmethod
    def load(cls) -> Self:
        """Read the settings; print a line for each invalid one and exit with status 2."""
        folder = os.environ.get("CONFIG_DIR")
        if folder and not (Path(folder).is_dir() and os.access(folder, os.R_OK | os.X_OK)):
            sys.stderr.write(f"configuration: CONFIG_DIR: {folder} is no folder that can be read\n")
            raise SystemExit(2)
        try:
            return cls()
        except ValidationError as invalid:
            errors = invalid.errors(include_url=False, include_context=False, include_input=False)
        for error in errors:
            # A default that is derived from an invalid value is no error of its own.
            if error["type"] != "default_factory_not_called":
                name = ".".join(str(part).upper() for part in error["loc"]) or "environment"
                message = " ".join(error["msg"].removeprefix("Value error, ").split())
                sys.stderr.write(f"configuration: {name}: {message}\n")
        raise SystemExit(2)

    def secrets(self) -> list[str]:
        """Return the values that must not be in any output."""
        values = vars(self).values()
        secrets = [value for value in values if isinstance(value, SecretStr | SecretBytes)]
        return [str(secret.get_secret_value()) for secret in secrets if secret]
