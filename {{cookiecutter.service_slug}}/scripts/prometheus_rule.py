"""Print rules.yaml for the Prometheus Operator; `make rules` writes it beside the manifests.

One line for each rule, because nobody reads it twice.
"""

import json
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Print YAML whose scalars are JSON, as scripts/rules.py does."""
    groups = yaml.safe_load((ROOT / "rules.yaml").read_text("utf-8"))["groups"]
    name = yaml.safe_load((ROOT / "service.yaml").read_text("utf-8"))["name"]
    lines = [
        "# Written by `make rules` from rules.yaml.",
        "apiVersion: monitoring.coreos.com/v1",
        "kind: PrometheusRule",
        f"metadata: {{name: {json.dumps(name)}}}",
        "spec:",
        "  groups:",
    ]
    for group in groups:
        lines += [f"    - name: {json.dumps(group['name'])}", "      rules:"]
        lines += [f"        - {json.dumps(rule, ensure_ascii=False)}" for rule in group["rules"]]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
