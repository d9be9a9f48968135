"""Which replicas the running gateway sends requests to."""

from fleet.containers import replicas
from fleet.engine import attempt
from fleet.project import Project

# The image has no curl; compose.yaml's health check asks the same port.
ASK = r"""
exec 3<>/dev/tcp/127.0.0.1/8081
printf 'GET /clusters HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n' >&3
exec cat <&3
"""


def gateway_runs(project: Project) -> bool:
    """Return whether the gateway runs."""
    return any(one.runs for one in replicas(project, "gateway"))


def healthy(project: Project, slug: str) -> set[str]:
    """Return the addresses of a service's replicas that the gateway regards as healthy."""
    running = [one for one in replicas(project, "gateway") if one.runs]
    if not running:
        return set()
    told = attempt("docker", "exec", running[0].id, "bash", "-c", ASK).stdout
    return addresses(told, slug)


def addresses(told: str, slug: str) -> set[str]:
    """Return the healthy addresses in what Envoy tells of its clusters."""
    found = set()
    for line in told.splitlines():
        cluster, _, rest = line.partition("::")
        host, _, fact = rest.partition("::")
        if cluster == slug and fact == "health_flags::healthy":
            found.add(host.rpartition(":")[0])
    return found
