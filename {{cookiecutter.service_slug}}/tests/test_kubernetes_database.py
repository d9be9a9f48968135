"""Facts of the Kubernetes manifests about the database, compared with compose and the settings."""

from pathlib import Path

from psycopg.pq import Conninfo
from support import mentioned
from test_database_files import CONNECTIONS
from test_database_files import MIGRATE
from test_kubernetes import EVERYTHING
from test_kubernetes import container
from test_kubernetes import environment
from test_kubernetes import loaded
from test_kubernetes import only
from test_kubernetes import pod_template

from service.chassis.project import PROJECT
from service.chassis.server.settings import CONCURRENCY

JOB = only("Job")
SECRETS = {
    f"{PROJECT.name}-database-{role}": f"{PROJECT.name}/database-{role}"
    for role in ("application", "owner")
}
KEPT = 3  # connections that a PostgreSQL server keeps for its superuser


def test_the_job_runs_what_compose_runs_before_the_service() -> None:
    (job,) = JOB["spec"]["template"]["spec"]["containers"]
    assert job["args"] == MIGRATE["command"]


def test_the_migrations_may_wait_for_each_other_before_the_job_gives_up() -> None:
    waits = mentioned(r"after (\d+) minutes it gives up", "database/README.md")
    assert JOB["spec"]["activeDeadlineSeconds"] > 60 * max(map(int, waits), default=0)


def test_each_pod_gets_the_secret_of_its_own_role_alone() -> None:
    mounted = [
        [one["secret"]["secretName"] for one in pod_template(name)["volumes"]]
        for name in ("base/process.yaml", "migrate/job.yaml")
    ]
    assert mounted == [[name] for name in SECRETS]


def test_every_pod_finds_the_address_where_its_secret_is_mounted() -> None:
    path = Path(environment("pod/config.env")["DATABASE_URL_FILE"])
    for name in ("base/process.yaml", "migrate/job.yaml"):
        folders = {one["name"]: one["mountPath"] for one in container(name)["volumeMounts"]}
        assert folders["secrets"] == str(path.parent)
    external = [one for one in EVERYTHING if one["kind"] == "ExternalSecret"]
    given = {one["metadata"]["name"]: one["spec"]["data"] for one in external}
    for name, key in SECRETS.items():
        assert given[name] == [{"secretKey": path.name, "remoteRef": {"key": key}}]


def test_the_database_may_be_reached_on_its_port() -> None:
    (port,) = (one.compiled for one in Conninfo.get_defaults() if one.keyword == b"port")
    assert port is not None
    anywhere = [one["ports"] for one in only("NetworkPolicy")["spec"]["egress"] if "to" not in one]
    assert [{"port": int(port)}] in anywhere


def test_the_connections_last_for_all_replicas_and_those_of_a_roll_out() -> None:
    process = loaded("deploy/kubernetes/base/process.yaml")["spec"]
    replicas = only("HorizontalPodAutoscaler")["spec"]["maxReplicas"]
    most = replicas + process["strategy"]["rollingUpdate"]["maxSurge"]
    assert most * (CONCURRENCY + 1) <= CONNECTIONS - KEPT
