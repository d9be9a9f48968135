"""Docker and other programs, as the platform runs them."""

import os
import re
import subprocess
import time
from collections.abc import Callable

from fleet.project import Refusal

# A setting in the shell, such as LOG_LEVEL, must not reach every service past its configuration.
PASSED = re.compile(
    r"PATH|HOME|USER|LANG|LC_\w+|TERM|TMPDIR|TZ|PORT|BIND_ADDRESS|XDG_\w+|SSH_\w+|"
    r"(DOCKER|BUILDX|BUILDKIT|COMPOSE|UV|PIP)_\w+|NETRC|SSL_CERT_FILE|PYTHON|CI|\w+_proxy|\w+_PROXY"
)


def environment() -> dict[str, str]:
    """Return the part of the caller's environment that other programs get."""
    return {name: value for name, value in os.environ.items() if PASSED.fullmatch(name)}


def attempt(*command: str, stdin: str | None = None) -> "subprocess.CompletedProcess[str]":
    """Run a program to its end."""
    try:
        return subprocess.run(
            command, input=stdin, env=environment(), capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise Refusal(f"{command[0]}: {error.strerror}; install it") from None


def docker(*arguments: str, stdin: str | None = None) -> str:
    """Return what docker prints; refuse with the last line of its complaint."""
    done = attempt("docker", *arguments, stdin=stdin)
    if done.returncode:
        complaint = (done.stderr.strip() or done.stdout.strip() or "it failed").splitlines()
        raise Refusal(f"docker {arguments[0]}: {complaint[-1].strip()}")
    return done.stdout.strip()


def has_image(image: str) -> bool:
    """Return whether this machine has an image."""
    return attempt("docker", "image", "inspect", image).returncode == 0


def wait(condition: Callable[[], bool], seconds: float) -> bool:
    """Return whether a condition comes to hold within some seconds."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
    return True
