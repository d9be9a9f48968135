"""The broker's settings: what is refused at the start, in one line without the password."""

import subprocess
import sys
from pathlib import Path

import pytest
from messages import WRONG_BROKER_URLS
from pydantic import ValidationError
from support import ROOT

from service.__main__ import main
from service.chassis.messaging import dead_letters
from service.chassis.messaging.settings import MessagingSettings


@pytest.mark.parametrize(
    "url",
    [
        "amqp://h",
        "amqp://u:hunter2@h:5672",
        "amqps://u:hunter2@broker.example.org:5671/vhost",
        "amqp://u:p%40%2Fss@h/%2F",
        "amqp://u@[::1]:5672/",
    ],
)
def test_an_address_of_a_broker_is_taken(url: str) -> None:
    assert MessagingSettings.model_validate({"broker_url": url}).broker_url


@pytest.mark.parametrize("url", WRONG_BROKER_URLS)
def test_a_wrong_address_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ValidationError) as refused:
        MessagingSettings.model_validate({"broker_url": url})
    (error,) = refused.value.errors(include_input=False, include_url=False)
    assert "hunter2" not in error["msg"]
    assert "\n" not in error["msg"]


def test_a_certificate_is_named_in_the_address(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("")
    url = f"amqps://u@h?cafile={file}"
    assert MessagingSettings.model_validate({"broker_url": url}).broker_url


def test_both_passwords_are_secrets() -> None:
    given = {"broker_url": "amqp://u:in-the-url@h", "broker_password": "its-own"}
    secrets = MessagingSettings.model_validate(given).secrets()
    assert {"in-the-url", "its-own"} <= set(secrets)


@pytest.mark.parametrize("command", ["relay", "consume"])
@pytest.mark.parametrize(
    ("name", "value"), [("BROKER_URL", ""), ("DATABASE_URL", "sqlite:////tmp/none.db")]
)
def test_a_worker_names_what_it_lacks_in_one_line(
    command: str,
    name: str,
    value: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("BROKER_URL", "amqp://h")
    monkeypatch.setenv("DATABASE_URL", "postgresql://u@h/x")
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        main([command])
    output = capsys.readouterr().err
    assert (ended.value.code, output.count("\n")) == (2, 1)
    assert output.startswith(f"configuration: {name}: ")


@pytest.mark.parametrize("arguments", [["list"], ["replay"], [], ["list", "1"], ["delete"]])
def test_dead_letters_need_a_broker_and_a_command(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("BROKER_URL", raising=False)
    assert dead_letters.main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_api_loads_no_library_of_the_broker() -> None:
    code = "import sys, service.app; service.app.create_app(); print('aio_pika' in sys.modules)"
    command = (sys.executable, "-c", code)
    done = subprocess.run(  # noqa: S603 the command is this file's own
        command, cwd=ROOT / "src", capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "False"
