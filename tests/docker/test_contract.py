"""The contract that a running service serves, tried from outside with requests of every kind."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.docker.containers import Run

pytestmark = pytest.mark.docker

# A basket may fit the document and still name products that are not for sale.
CONFIGURATION = """
[checks]
positive_data_acceptance.expected-statuses = ["2xx", "404"]
[[operations]]
include-name = "POST /v1/quotes"
[operations.checks]
positive_data_acceptance.expected-statuses = ["2xx", "422"]
"""


def test_a_thousand_requests_get_answers_that_the_contract_allows(
    run: Run, service_python: Path, tmp_path: Path
) -> None:
    container = run().wait_until_ready()
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION)
    url = f"http://127.0.0.1:{container.port}/openapi.json"
    tool = service_python.with_name("schemathesis")
    command = (str(tool), "--no-color", "run", url, "--max-examples", "120", "--seed", "1")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    counted = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert counted, done.stdout
    assert int(counted[1]) == int(counted[2]) >= 1000
    fault = r'"http.response.status_code":5|"level":"(ERROR|CRITICAL)"'
    assert not re.search(fault, container.logs(5000))
