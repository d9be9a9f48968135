"""Logs, metrics and traces, which know nothing of the web framework and the server."""
