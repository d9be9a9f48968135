"""`python -m service` serves; `config` prints the settings; `openapi` prints the API's document."""

import sys

from service import workers  # only-if: messaging == "rabbitmq"
from service.settings import Settings


def show_config(settings: Settings) -> int:
    """Print the settings, secrets masked."""
    for name, value in settings.model_dump().items():
        sys.stdout.write(f"{name.upper()}={value}\n")
    return 0


def show_openapi(settings: Settings) -> int:
    """Print the document of the routes."""
    from service.app import create_app

    sys.stdout.write(create_app(settings).extensions["openapi"].decode())
    return 0


def serve(settings: Settings) -> int:
    """Serve until a signal."""
    from service.chassis.server import granian
    from service.chassis.telemetry import logs

    return granian.serve(settings, "service.app:create_app", logs.config(settings))


COMMANDS = {"serve": serve, "config": show_config, "openapi": show_openapi}
COMMANDS |= workers.COMMANDS  # only-if: messaging == "rabbitmq"


def main(arguments: list[str]) -> int:
    """Run the command and return its exit status; without one, serve."""
    command = COMMANDS.get(arguments[0] if arguments else "serve")
    if command is None or len(arguments) > 1:
        sys.stderr.write(f"usage: python -m service [{' | '.join(COMMANDS)}]\n")
        return 2
    return command(Settings.load())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
