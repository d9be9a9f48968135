"""RabbitMQ and PostgreSQL in containers, and processes of services beside them, to be killed."""

import os
import signal
import socket
import subprocess
import uuid
from collections.abc import Iterator
from collections.abc import Sequence
from contextlib import ExitStack
from contextlib import contextmanager
from pathlib import Path

from tests.docker.containers import NO_FSYNC
from tests.docker.containers import docker
from tests.docker.containers import eventually
from tests.docker.containers import status

BROKER = "rabbitmq:4"
DATABASE = "postgres:18"
MEMORY = "--memory=768m"  # as in compose.messaging.yaml


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Server:
    """A container with one port of 127.0.0.1, which it has again after a restart."""

    def __init__(
        self, image: str, inner_port: int, *options: str, arguments: Sequence[str] = ()
    ) -> None:
        self.port = free_port()
        publish = f"--publish=127.0.0.1:{self.port}:{inner_port}"
        name = f"server-{uuid.uuid4().hex[:8]}"  # a broker's data belong to its host's name
        self.id = docker(
            "run", "--detach", f"--hostname={name}", publish, *options, image, *arguments
        )

    def run(self, *command: str, stdin: str | None = None) -> str:
        """Run a command in the container; return what it prints."""
        interactive = () if stdin is None else ("--interactive",)
        return docker("exec", *interactive, self.id, *command, stdin=stdin)

    def succeeds(self, *command: str) -> bool:
        """Return whether a command in the container succeeds."""
        return not subprocess.run(
            ("docker", "exec", self.id, *command), capture_output=True
        ).returncode

    def kill(self) -> None:
        """End it by SIGKILL and start it again at once."""
        docker("kill", "--signal=KILL", self.id)
        docker("start", self.id)

    def remove(self) -> None:
        """End it, and its data with it."""
        docker("rm", "--force", "--volumes", self.id)


class Process:
    """A process of a service, which tells its log to a file."""

    def __init__(
        self, name: str, command: list[str], environment: dict[str, str], log: Path
    ) -> None:
        self.name = name
        self.port = int(environment["PORT"])
        self.log = log
        self._command = command
        self._environment = environment
        self.start()

    def start(self) -> None:
        """Start it, or start it again."""
        with self.log.open("ab") as log:
            self._popen = subprocess.Popen(
                self._command, env=self._environment, cwd=self.log.parent, stdout=log, stderr=log
            )

    def is_alive(self) -> bool:
        """Return whether it runs."""
        return self._popen.poll() is None

    def is_ready(self) -> bool:
        """Return whether it says so."""
        return status(self.port, "/readyz") == 200

    def wait_until_ready(self) -> "Process":
        """Return when it is ready."""
        eventually(self.is_ready, f"{self.name} is ready\n{self.told()[-2000:]}")
        return self

    def kill(self) -> None:
        """End it by SIGKILL and start it again at once."""
        self._popen.kill()
        self._popen.wait()
        self.start()

    def stop(self) -> int:
        """Ask it to end, and return its exit status; end it where it does not."""
        self._popen.send_signal(signal.SIGTERM)
        try:
            return self._popen.wait(30)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            return self._popen.wait()

    def told(self) -> str:
        """Return its log."""
        return self.log.read_text("utf-8", "replace")


class Servers:
    """A broker and a database server for several services."""

    def __init__(self, broker: Server, database: Server) -> None:
        self.broker = broker
        self.database = database
        self.migrated: dict[Path, str] = {}  # databases with the tables of services

    def sql(self, statement: str, database: str = "postgres") -> str:
        """Run SQL; return rows as lines with `|` between values."""
        plain = ("--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1")
        psql = ("psql", *plain, "--username=postgres", f"--dbname={database}")
        return self.database.run(*psql, stdin=statement).strip()

    def rabbitmqctl(self, *arguments: str) -> str:
        """Run a command of the broker's."""
        return self.broker.run("rabbitmqctl", "--quiet", *arguments)

    def answer(self) -> bool:
        """Return whether both can be asked."""
        database = self.database.succeeds("pg_isready", "--quiet", "--host=127.0.0.1")
        return database and self.broker.succeeds(
            "rabbitmq-diagnostics", "--quiet", "check_port_connectivity"
        )

    def wait(self) -> None:
        """Return when both can be asked."""
        eventually(self.answer, "broker and database answer", 120)


def database_server() -> Server:
    """Start PostgreSQL, which lets everyone in."""
    return Server(DATABASE, 5432, "--env=POSTGRES_HOST_AUTH_METHOD=trust", arguments=NO_FSYNC)


@contextmanager
def servers() -> Iterator[Servers]:
    """Start a broker and a database server; in the end remove them."""
    user = ("--env=RABBITMQ_DEFAULT_USER=application", "--env=RABBITMQ_DEFAULT_PASS=unused")
    with ExitStack() as stack:
        broker = Server(BROKER, 5672, MEMORY, *user)
        stack.callback(broker.remove)
        database = database_server()
        stack.callback(database.remove)
        made = Servers(broker, database)
        made.wait()
        yield made


class Place:
    """A service's database and virtual host, and the processes that it starts there."""

    def __init__(
        self, servers: Servers, service: Path, python: Path, folder: Path, vhost: str = ""
    ) -> None:
        """Make its database, and its virtual host unless there is one."""
        self.name = f"place_{uuid.uuid4().hex[:8]}"
        self.servers = servers
        self.service = service
        self.vhost = vhost or self.name
        self._python = str(python)
        self._folder = folder
        self._processes: list[Process] = []
        if not vhost:
            servers.rabbitmqctl("add_vhost", self.vhost)
            servers.rabbitmqctl("set_permissions", "-p", self.vhost, "application", *[".*"] * 3)
        if template := servers.migrated.get(service):
            servers.sql(f"CREATE DATABASE {self.name} TEMPLATE {template}")
        else:
            self._migrate()

    def _migrate(self) -> None:
        """Make the tables by the migrations, and keep a copy for the next place."""
        self.servers.sql(f"CREATE DATABASE {self.name}")
        self.run("-m", "alembic", "upgrade", "head")
        copy = f"{self.name}_migrated"
        self.servers.sql(f"CREATE DATABASE {copy} TEMPLATE {self.name}")
        self.servers.migrated[self.service] = copy

    @property
    def queue(self) -> str:
        """The name of the service's queue."""
        return f"{self.service.name}.events"

    def _environment(self, given: dict[str, str]) -> dict[str, str]:
        database = f"127.0.0.1:{self.servers.database.port}/{self.name}"
        broker = f"127.0.0.1:{self.servers.broker.port}/{self.vhost}"
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(self.service / "src"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "DATABASE_URL": f"postgresql://postgres@{database}",
            "BROKER_URL": f"amqp://application:unused@{broker}",
            "PORT": str(free_port()),
            **given,
        }

    def run(self, *arguments: str, **environment: str) -> str:
        """Let the service's interpreter run something to its end; return what it prints."""
        done = subprocess.run(
            (self._python, *arguments),
            cwd=self.service,
            env=self._environment(environment),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def start(self, *arguments: str, **environment: str) -> Process:
        """Let the service's interpreter run something beside the test."""
        name = f"{arguments[-1]}-{len(self._processes)}"
        command = [self._python, *arguments]
        log = self._folder / f"{self.name}-{name}.log"
        process = Process(name, command, self._environment(environment), log)
        self._processes.append(process)
        return process

    def wait_until_ready(self) -> None:
        """Return when all its processes are ready."""
        for process in self._processes:
            process.wait_until_ready()

    def sql(self, statement: str) -> list[list[str]]:
        """Run SQL in its database; return the rows."""
        told = self.servers.sql(statement, self.name)
        return [line.split("|") for line in told.splitlines()]

    def number(self, statement: str) -> int:
        """Return the only number that a statement selects."""
        return int(self.sql(statement)[0][0])

    def waiting(self, queue: str) -> int:
        """Return how many messages a queue has, those that were delivered with them."""
        listed = self.servers.rabbitmqctl("list_queues", "-p", self.vhost, "name", "messages")
        rows = [line.split("\t") for line in listed.splitlines()]
        return sum(int(row[1]) for row in rows if row[0] == queue)

    def is_idle(self) -> bool:
        """Return whether nothing is to be sent or handled."""
        return self.number("SELECT count(*) FROM outbox") == 0 and self.waiting(self.queue) == 0

    def wait_until_idle(self) -> None:
        """Return when nothing is to be sent or handled."""
        eventually(self.is_idle, "the outbox and the queue are empty", 120)

    def stop(self) -> list[int]:
        """Ask all processes to end, the last first; return their exit statuses."""
        ended = [process.stop() for process in reversed(self._processes) if process.is_alive()]
        self._processes.clear()
        return ended
