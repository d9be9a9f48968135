"""What the parts of Envoy's configuration share."""

from typing import Any

Resource = dict[str, Any]

FOLDER = "/etc/gateway"  # where the container sees the files
TYPES = "type.googleapis.com/envoy"
COLLECTOR = "traces-collector"
ENTRY_PORT = 8080
INTERNAL_PORT = 8081
