"""Where settings come from, and what happens to bad ones."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pydantic
import pytest
from messages import WRONG_BROKER_URLS  # only-if: messaging == "rabbitmq"
from pydantic import SecretStr
from support import ROOT

from database import WRONG_URLS  # only-if: database == "postgresql"
from service.__main__ import COMMANDS
from service.__main__ import main
from service.chassis.project import PROJECT
from service.chassis.server import settings as server
from service.chassis.settings import EnvironmentSettings
from service.settings import Settings


class WithSecret(EnvironmentSettings):
    """Settings of which one has no default."""

    token: SecretStr
    retries: int = 1


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*Settings.model_fields, "config_dir", "token"]:
        monkeypatch.delenv(name.upper(), raising=False)


def test_every_setting_has_a_default_and_a_line_of_help() -> None:
    assert Settings.load().port == 5000
    assert all(field.description for field in Settings.model_fields.values())


def test_settings_cannot_change() -> None:
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        Settings().port = 1  # type: ignore[misc]


def test_the_environment_wins_over_shared_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "PORT").write_text("6000\n")
    (tmp_path / "LOG_LEVEL").write_text("ERROR")
    monkeypatch.setenv("CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("PORT", "7000")
    settings = Settings.load()
    assert (settings.port, settings.log_level) == (7000, "ERROR")


def test_a_secret_comes_from_the_file_that_its_variable_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_text("hunter2\n")
    monkeypatch.setenv("TOKEN_FILE", str(tmp_path / "secret"))
    settings = WithSecret.load()
    assert settings.token.get_secret_value() == "hunter2"
    assert settings.secrets() == ["hunter2"]
    assert "hunter2" not in repr(settings)


def test_all_errors_are_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TOKEN_FILE", str(tmp_path / "missing"))
    monkeypatch.setenv("RETRIES", "many")
    with pytest.raises(SystemExit) as stopped:
        WithSecret.load()
    token, retries = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2
    assert token.startswith("configuration: TOKEN: its file cannot be read")
    assert retries.startswith("configuration: RETRIES: Input should be a valid integer")


def test_a_value_and_a_file_for_it_is_one_too_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "secret").write_text("hunter2")
    monkeypatch.setenv("RETRIES_FILE", str(tmp_path / "secret"))
    monkeypatch.setenv("RETRIES", "2")
    monkeypatch.setenv("TOKEN", "a-token")
    with pytest.raises(SystemExit):
        WithSecret.load()
    assert (
        capsys.readouterr().err
        == "configuration: RETRIES: RETRIES and RETRIES_FILE are both set: keep one\n"
    )


def test_a_bad_secret_is_not_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RETRIES", "hunter2")
    with pytest.raises(SystemExit):
        WithSecret.load()
    assert "hunter2" not in capsys.readouterr().err


def test_a_folder_of_shared_defaults_that_is_not_there_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CONFIG_DIR", "/nowhere")
    with pytest.raises(SystemExit):
        Settings.load()
    assert (
        capsys.readouterr().err
        == "configuration: CONFIG_DIR: /nowhere is no folder that can be read\n"
    )


# Wrong values of every setting of the chassis; a text that may be anything has none.
WRONG = {
    "BIND_ADDRESS": ["example.com", "1.2.3", "0.0.0.0:80", "[::1]:80", "fe80::1%lo", "a b"],
    "PORT": ["0", "65536", "5000.5", "http"],
    "MAX_BODY_SIZE": ["-1", "1023", "1MB"],
    "CONCURRENCY": ["0", "1001", "many"],
    "MAX_QUEUE": ["-1", "many"],
    "QUEUE_TIMEOUT": ["0", "nan", "1s"],
    "CORS_ALLOWED_ORIGINS": ["example.com", "https://A.example", "https://example.com/"],
    "REQUEST_TIMEOUT": ["0", "nan", "10s"],
    "DRAIN_DELAY": ["-1", "inf", "2s"],
    "SHUTDOWN_GRACE": ["0", "0.5"],
    "LOG_LEVEL": ["verbose"],
    "LOG_FORMAT": ["xml"],
    "SLOW_REQUEST": ["0", "nan"],
    "CALL_TIMEOUT": ["0", "nan", "2s"],
    "CALL_CONNECT_TIMEOUT": ["0", "301"],
    "CALL_READ_TIMEOUT": ["0", "inf"],
    "CALL_MAX_SIZE": ["0", "1MB"],
    "CALL_CONCURRENCY": ["0", "1.5"],
    "DATABASE_URL": WRONG_URLS,  # only-if: database == "postgresql"
    "DATABASE_PASSWORD": [],  # only-if: database == "postgresql"
    "DATABASE_TIMEOUT": ["0", "601", "nan"],  # only-if: database == "postgresql"
    "CURSOR_KEY": ["hunter2"],  # only-if: database == "postgresql"
    "BROKER_URL": WRONG_BROKER_URLS,  # only-if: messaging == "rabbitmq"
    "BROKER_PASSWORD": [],  # only-if: messaging == "rabbitmq"
    "CONSUMER_CONCURRENCY": ["0", "101", "many"],  # only-if: messaging == "rabbitmq"
    "CONSUMER_TRIES": ["0", "21"],  # only-if: messaging == "rabbitmq"
    "INBOX_RETENTION": ["0", "366", "7d"],  # only-if: messaging == "rabbitmq"
    "OTEL_SDK_DISABLED": ["perhaps"],
    "OTEL_EXPORTER_OTLP_ENDPOINT": ["collector:4318", "ftp://collector", "http://u:hunter2@c"],
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": ["collector:4318", "http://"],
    "OTEL_TRACES_EXPORTER": ["jaeger"],
    "OTEL_EXPORTER_OTLP_PROTOCOL": ["grpc"],
    "OTEL_EXPORTER_OTLP_HEADERS": ["hunter2", "key=%E2%82%AChunter2", "a key=hunter2"],
    "OTEL_EXPORTER_OTLP_TIMEOUT": ["0", "9" * 20, "10s"],
    "OTEL_SERVICE_NAME": [],
    "OTEL_RESOURCE_ATTRIBUTES": ["a", "=b"],
    "OTEL_TRACES_SAMPLER": ["sometimes"],
    "OTEL_TRACES_SAMPLER_ARG": ["2", "-1", "nan", "half"],
    "OTEL_PROPAGATORS": ["b3", "b3\nmulti"],
}
EVERY_WRONG = [(variable, value) for variable, values in WRONG.items() for value in values]


def refusal(capsys: pytest.CaptureFixture[str], settings: type[EnvironmentSettings]) -> str:
    """Load the settings, which must end with status 2 and one line; return the line."""
    with pytest.raises(SystemExit) as stopped:
        settings.load()
    (line,) = capsys.readouterr().err.splitlines()
    assert (stopped.value.code, "hunter2" in line) == (2, False)
    return line


def test_every_setting_of_the_chassis_has_wrong_values_here() -> None:
    fields = {name for base in Settings.__bases__ for name in getattr(base, "model_fields", ())}
    assert {name.upper() for name in fields} == WRONG.keys()


@pytest.mark.parametrize("source", ["environment", "file", "folder"])
@pytest.mark.parametrize(("variable", "value"), EVERY_WRONG)
def test_a_wrong_value_is_one_line(
    variable: str,
    value: str,
    source: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / variable).write_text(value, "utf-8")
    given = {
        "environment": (variable, value),
        "file": (f"{variable}_FILE", str(tmp_path / variable)),
        "folder": ("CONFIG_DIR", str(tmp_path)),
    }
    monkeypatch.setenv(*given[source])
    assert refusal(capsys, Settings).startswith(f"configuration: {variable}: ")


@pytest.mark.parametrize("variable", WRONG)
def test_a_text_that_cannot_be_read_is_one_line(
    variable: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / variable).write_bytes(b"\xff")
    (folder := tmp_path / "folder").mkdir()
    (folder / variable).mkdir()
    for name, value, fault in (
        (variable, "\udcff", "is not UTF-8"),
        (variable, '"x"', 'remove the quotes: " is part of the value'),
        (variable, "'x'", "remove the quotes: ' is part of the value"),
        (f"{variable}_FILE", tmp_path / variable, "is not UTF-8"),
        (f"{variable}_FILE", folder, "its file cannot be read: [Errno"),
        (f"{variable}_FILE", tmp_path / "none", "its file cannot be read: [Errno"),
        ("CONFIG_DIR", tmp_path, "is not UTF-8"),
        ("CONFIG_DIR", folder, "its file cannot be read: [Errno"),
    ):
        with monkeypatch.context() as environment:
            environment.setenv(name, str(value))
            assert refusal(capsys, Settings).startswith(f"configuration: {variable}: {fault}")


class WithList(EnvironmentSettings):
    """A setting that is no scalar."""

    hosts: tuple[str, ...] = ()


@pytest.mark.parametrize("source", ["HOSTS", "HOSTS_FILE", "CONFIG_DIR"])
def test_a_list_is_json_from_every_source(
    source: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    value = {"HOSTS_FILE": str(tmp_path / "hosts"), "CONFIG_DIR": str(tmp_path)}
    for text in ('["a", "b"]', "a,b"):
        (tmp_path / "hosts").write_text(text)
        monkeypatch.setenv(source, value.get(source, text))
        if text.startswith("["):
            assert WithList.load().hosts == ("a", "b")
    assert refusal(capsys, WithList) == 'configuration: HOSTS: must be JSON, such as ["a", "b"]'


@pytest.mark.parametrize(
    ("given", "used"), [("localhost", "127.0.0.1"), ("[::]", "::"), ("::1", "::1")]
)
def test_an_address_is_written_as_the_server_takes_it(
    given: str, used: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BIND_ADDRESS", given)
    assert Settings.load().bind_address == used


@pytest.mark.parametrize(
    ("memory", "requests"), [("max", 16), (1024, 16), (384, 16), (256, 11), (128, 2), (64, 1)]
)
def test_requests_at_once_fit_into_memory(tmp_path: Path, memory: int | str, requests: int) -> None:
    limit = memory if isinstance(memory, str) else str(memory * server.MIB)
    (tmp_path / "memory.max").write_text(limit)
    assert server.default_concurrency(server.MAX_BODY_SIZE, tmp_path) == requests


def test_without_a_container_memory_is_no_limit(tmp_path: Path) -> None:
    assert server.default_concurrency(server.MAX_BODY_SIZE, tmp_path) == server.CONCURRENCY


def test_requests_at_once_follow_the_size_of_a_body(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "default_concurrency", lambda size: size // 1024)
    monkeypatch.setenv("MAX_BODY_SIZE", "7168")
    assert Settings().concurrency == 7


def run(
    command: str, environment: dict[str, str], check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run the module as a program, with these settings."""
    return subprocess.run(  # noqa: S603 the command is this file's own
        [sys.executable, "-m", "service", command],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), **environment},
        capture_output=True,
        text=True,
        check=check,
        timeout=60,
    )


@pytest.mark.parametrize("what", ["CONTEXT", "TRACER_PROVIDER", "METER_PROVIDER"])
def test_what_opentelemetry_cannot_load_is_one_line(what: str) -> None:
    refused = run("serve", {f"OTEL_PYTHON_{what}": "nonsense"}, check=False)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == (
        f"configuration: environment: OTEL_PYTHON_{what}: 'nonsense' is not installed; unset it\n"
    )


def test_config_prints_the_settings_and_masks_secrets() -> None:
    headers = "authorization=hunter2"
    shown = run("config", {"PORT": "7000", "OTEL_EXPORTER_OTLP_HEADERS": headers})
    lines = shown.stdout.splitlines()
    assert {"PORT=7000", "OTEL_EXPORTER_OTLP_HEADERS=**********"} <= set(lines)
    assert len(lines) == len(Settings.model_fields)
    assert "hunter2" not in shown.stdout + shown.stderr


def test_openapi_prints_the_committed_contract(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["openapi"]) == 0
    assert capsys.readouterr().out == (ROOT / "openapi.json").read_text("utf-8")


def test_an_unknown_command_gets_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fly"]) == 2
    assert capsys.readouterr().err == f"usage: python -m service [{' | '.join(COMMANDS)}]\n"


def test_the_module_runs_as_a_program() -> None:
    assert "PORT=7001\n" in run("config", {"PORT": "7001"}).stdout


@pytest.mark.parametrize("arguments", [[], ["serve"]])
def test_without_a_command_it_serves(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv("BIND_ADDRESS", "127.0.0.1")
        monkeypatch.setenv("PORT", str(port))
        with pytest.raises(SystemExit, match=f"cannot listen on 127.0.0.1 port {port}"):
            main(arguments)


def test_the_project_names_itself() -> None:
    assert PROJECT.name
    assert PROJECT.version.count(".") == 2
