"""What the tests ask of a cluster of this machine's own, by kubectl and containerd's client."""

import json
import os
import subprocess
import uuid
from pathlib import Path
from typing import Any

from tests.deployment import commands
from tests.docker.containers import docker
from tests.docker.containers import eventually

HOME = Path(os.environ.get("KUBECONFIG", "")).parent  # with the cluster's programs
LOGS = Path("/var/log/pods")
SOCKET = HOME / "run" / "containerd.sock"
SECONDS = 180.0  # for what a busy machine does at last
# Production on a cluster without operators whose API is v1.20, and sooner sure of a failure.
OVERLAY = """\
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
namespace: {namespace}
resources: [../production, secrets.yaml]
patches:
  - target: {{kind: ExternalSecret|HTTPRoute|PodMonitor|PrometheusRule}}
    patch: "{{apiVersion: v1, kind: any, metadata: {{name: any}}, $patch: delete}}"
  - target: {{kind: HorizontalPodAutoscaler}}
    patch: '[{{"op": "replace", "path": "/apiVersion", "value": "autoscaling/v2beta2"}}]'
  - target: {{kind: PodDisruptionBudget}}
    patch: |-
      - {{op: replace, path: /apiVersion, value: policy/v1beta1}}
      - {{op: remove, path: /spec/unhealthyPodEvictionPolicy}}
  - target: {{kind: Deployment}}
    patch: |-
      - {{op: replace, path: /spec/progressDeadlineSeconds, value: 60}}
  - target: {{kind: Deployment, name: {name}}}
    patch: |-
      - {{op: remove, path: /spec/template/spec/topologySpreadConstraints/0/matchLabelKeys}}
      - {{op: remove, path: /spec/template/spec/topologySpreadConstraints/1/matchLabelKeys}}
"""
# In place of an operator's: they are there before the migrations, which need one of them.
SECRET = """\
---
apiVersion: v1
kind: Secret
metadata: {{name: {name}, labels: {{app.kubernetes.io/component: secrets}}}}
stringData: {{{key}: "{url}"}}
"""
# The address of this machine in the pods' network, the only one beyond their own that they reach.
HOST = "10.99.0.1"
PAUSE = "docker.io/library/pause:local"
POSTGRES = "postgres:18"
RABBITMQ = "rabbitmq:4"
ROLES = ("owner", "application")
READY = ("psql", "--host=127.0.0.1", "--username=postgres", "--dbname=service")


class Cluster:
    """One namespace of the cluster, and the service in it."""

    def __init__(self, namespace: str) -> None:
        """Ask for nothing yet."""
        self.namespace = namespace
        self.service = Path()

    def __call__(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl in the namespace, which must succeed; return what it prints."""
        command = ("kubectl", "--namespace", self.namespace, *arguments)
        done = subprocess.run(command, input=stdin, capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
        return done.stdout

    def begin(self) -> None:
        """Make the namespace; with its first pod the network is there."""
        self("create", "namespace", self.namespace)
        self("run", "network", f"--image={PAUSE}")
        self("wait", "--for=condition=ready", "pod/network", f"--timeout={SECONDS}s")

    def end(self) -> None:
        """Remove what the tests made."""
        self("delete", "namespace", self.namespace, "--ignore-not-found")
        servers = (f"{self.namespace}-{server}" for server in ("db", "broker"))
        docker("rm", "--force", "--volumes", *servers)

    def adopt(self, service: Path) -> None:
        """Give the service an overlay that fits, its database and the addresses of that."""
        self.service = service
        overlay = service / "deploy" / "kubernetes" / "overlays" / "test"
        overlay.mkdir()
        (overlay / "kustomization.yaml").write_text(
            OVERLAY.format(namespace=self.namespace, name=service.name)
        )
        (overlay / "config.env").write_text("LOG_LEVEL=INFO\n")
        secrets = self._start_database() | self._start_broker()
        texts = (SECRET.format(name=name, **secret) for name, secret in secrets.items())
        (overlay / "secrets.yaml").write_text("".join(texts))

    def _start_database(self) -> dict[str, dict[str, str]]:
        """Start PostgreSQL with the service's roles, for pods alone; return the secrets."""
        name = f"{self.namespace}-db"
        options = ["--env=POSTGRES_DB=service", "--env=POSTGRES_PASSWORD=superuser"]
        for role in ROLES:
            secret = self.service.parent / role
            secret.write_text(role)
            options.append(f"--volume={secret}:/run/secrets/database-{role}:ro")
        roles = self.service / "database" / "roles.sh"
        options.append(f"--volume={roles}:/docker-entrypoint-initdb.d/roles.sh:ro")
        publish = ("--publish", f"{HOST}::5432")
        docker("run", "--detach", "--name", name, *publish, *options, POSTGRES)
        ask = ("docker", "exec", name, *READY, "--command", "SELECT 'application'::regrole")
        eventually(lambda: subprocess.run(ask, capture_output=True).returncode == 0, name)
        at = docker("port", name, "5432")
        urls = {role: f"postgresql://{role}:{role}@{at}/service" for role in ROLES}
        return {
            f"{self.service.name}-database-{role}": {"key": "database-url", "url": url}
            for role, url in urls.items()
        }

    def _start_broker(self) -> dict[str, dict[str, str]]:
        """Start RabbitMQ, for pods alone; return its secret."""
        name = f"{self.namespace}-broker"
        user = ("RABBITMQ_DEFAULT_USER=application", "RABBITMQ_DEFAULT_PASS=broker")
        options = [f"--env={one}" for one in user]
        docker("run", "--detach", "--name", name, "--publish", f"{HOST}::5672", *options, RABBITMQ)
        ask = ("docker", "exec", name, "rabbitmq-diagnostics", "-q", "check_port_connectivity")
        eventually(lambda: subprocess.run(ask, capture_output=True).returncode == 0, name, SECONDS)
        url = f"amqp://application:broker@{docker('port', name, '5672')}"
        secret = f"{self.service.name}-broker-application"
        return {secret: {"key": "broker-url", "url": url}}

    def address(self, service: str) -> str:
        """The address of a Service, which this machine reaches too."""
        return self("get", "service", service, "--output=jsonpath={.spec.clusterIP}")

    def load(self, *images: str) -> None:
        """Hand images of the Docker engine to the cluster, which has no registry."""
        command = ("docker", "save", *images)
        with subprocess.Popen(command, stdout=subprocess.PIPE) as saved:
            ctr(("images", "import", "-"), stdin=saved.stdout)
        assert saved.returncode == 0

    def unload(self, *images: str) -> None:
        """Take images from the cluster."""
        ctr(("images", "rm", *images))

    def make(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a make target for Kubernetes, as docs/deployment.md has it if it does."""
        target, *others = arguments
        written = {line.split()[1]: line.split()[2:] for line in commands("On Kubernetes")}
        given = {one.partition("=")[0]: one for one in (*written.get(target, ()), *others)}
        given["OVERLAY"] = "OVERLAY=test"
        given.pop("IMAGE", "")  # the environment's
        command = ("make", "--no-print-directory", target, *given.values())
        options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        merged = os.environ | environment
        return subprocess.run(command, cwd=self.service, env=merged, text=True, **options)

    def passes(self, *arguments: str, **environment: str) -> str:
        """Run one of them, which must succeed; return what it prints."""
        done = self.make(*arguments, **environment)
        assert done.returncode == 0, done.stdout + done.stderr + self.logs()
        return done.stdout

    def logs(self) -> str:
        """The ends of all containers' logs, from this machine's own files."""
        files = LOGS.glob(f"{self.namespace}_{self.service.name}*/service/*.log")
        return "".join(f"{path}\n{path.read_text()[-2000:]}\n" for path in sorted(files))

    def run(self, pod: str, *command: str) -> str:
        """Run a command in the container of a pod, as its process runs; return what it prints."""
        (container,) = self.found("pod", pod)["status"]["containerStatuses"]
        name = container["containerID"].removeprefix("containerd://")
        return ctr(("tasks", "exec", "--exec-id", uuid.uuid4().hex, name, *command))

    def deployment(self) -> dict[str, Any]:
        """The service's Deployment."""
        found: dict[str, Any] = self.found("deployment", self.service.name)
        return found

    def pods(self) -> list[dict[str, Any]]:
        """The pods of the API that are not on their way out."""
        labels = f"app.kubernetes.io/name={self.service.name},app.kubernetes.io/component=api"
        items = self.found("pods", f"--selector={labels}")["items"]
        return [pod for pod in items if "deletionTimestamp" not in pod["metadata"]]

    def found(self, *what: str) -> Any:
        """What the API answers for `kubectl get`."""
        return json.loads(self("get", *what, "--output=json"))

    def settle(self, replicas: int) -> None:
        """Wait until so many pods of the API, and no others, are there and ready."""

        def is_settled() -> bool:
            status = self.deployment()["status"]
            kinds = ("replicas", "readyReplicas", "updatedReplicas", "availableReplicas")
            return [status.get(kind) for kind in kinds] == [replicas] * len(kinds)

        eventually(is_settled, f"{replicas} pods are ready", SECONDS)


def ctr(arguments: tuple[str, ...], stdin: Any = None) -> str:
    """Run containerd's client in the cluster's namespace; return what it prints."""
    command = ("ctr", "--address", str(SOCKET), "--namespace", "k8s.io", *arguments)
    return subprocess.run(
        command, check=True, stdin=stdin, stdout=subprocess.PIPE, text=True
    ).stdout
