"""Where settings come from, and what happens to bad ones."""

import os
import subprocess
import sys
from pathlib import Path

import pydantic
import pytest
from pydantic import SecretStr

from service.__main__ import main
from service.chassis.configuration import MIB, PROJECT, Configuration, available_cpus, concurrency
from service.settings import Settings


class WithSecret(Configuration):
    token: SecretStr
    retries: int = 1


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*Settings.model_fields, "config_dir", "token"]:
        monkeypatch.delenv(name.upper(), raising=False)


def test_every_setting_has_a_default_and_a_line_of_help() -> None:
    assert Settings.load().port == 5000
    assert all(field.description for field in Settings.model_fields.values())


def test_settings_cannot_change() -> None:
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        Settings().port = 1  # type: ignore[misc]


def test_the_environment_wins_over_shared_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "PORT").write_text("6000\n")
    (tmp_path / "LOG_LEVEL").write_text("ERROR")
    monkeypatch.setenv("CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("PORT", "7000")
    settings = Settings.load()
    assert (settings.port, settings.log_level) == (7000, "ERROR")


def test_a_secret_comes_from_the_file_that_its_variable_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert token.startswith("configuration: TOKEN: Value error, TOKEN_FILE cannot be read")
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
        == "configuration: RETRIES: Value error, RETRIES and RETRIES_FILE are both set: keep one\n"
    )


def test_a_bad_secret_is_not_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
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
    assert capsys.readouterr().err == "configuration: CONFIG_DIR: /nowhere is not a folder\n"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PORT", "0"),
        ("PORT", "65536"),
        ("WORKERS", "0"),
        ("MAX_BODY_SIZE", "-1"),
        ("DRAIN_DELAY", "-1"),
        ("LOG_LEVEL", "x"),
    ],
)
def test_a_value_out_of_range_is_refused(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit):
        Settings.load()


@pytest.mark.parametrize(("quota", "cpus"), [("50000 100000", 1), ("150000 100000", 2), ("400000 100000", 4)])
def test_the_quota_of_the_container_counts_as_cpus(tmp_path: Path, quota: str, cpus: int) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    assert available_cpus(tmp_path) == cpus


def test_without_a_quota_the_cpus_of_the_machine_count(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("max 100000")
    (tmp_path / "memory.max").write_text("max")
    assert available_cpus(tmp_path) >= 1
    assert concurrency(MIB, 1, tmp_path) >= 4


@pytest.mark.parametrize(
    ("cpus", "memory", "requests"), [(1, 1024, 4), (2, 1024, 8), (100, 4096, 32), (8, 120, 13), (8, 64, 2)]
)
def test_requests_at_once_follow_the_limits(tmp_path: Path, cpus: int, memory: int, requests: int) -> None:
    (tmp_path / "cpu.max").write_text(f"{cpus * 100_000} 100000")
    (tmp_path / "memory.max").write_text(str(memory * MIB))
    assert concurrency(MIB, 1, tmp_path) == requests


def test_config_prints_the_settings_and_masks_secrets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PORT", "7000")
    assert main(["config"]) == 0
    assert "PORT=7000\n" in capsys.readouterr().out


def test_openapi_prints_the_committed_contract(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["openapi"]) == 0
    assert capsys.readouterr().out == (Path(__file__).parents[1] / "openapi.json").read_text("utf-8")


def test_an_unknown_command_gets_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fly"]) == 2
    assert capsys.readouterr().err == "usage: python -m service [serve | config | openapi]\n"


def test_the_module_runs_as_a_program() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "service", "config"],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1] / "src"), "PORT": "7001"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "PORT=7001\n" in run.stdout


def test_the_project_names_itself() -> None:
    assert PROJECT.name
    assert PROJECT.version.count(".") == 2
