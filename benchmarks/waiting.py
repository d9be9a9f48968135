"""Bare Flask with a view that waits, as for a database, and one that does not."""

import os
import time

from flask import Flask

WAIT = 0.05  # seconds


def wait() -> dict[str, str]:
    """Answer after a while."""
    time.sleep(WAIT)
    return {"name": "Tea"}


def add_views(app: Flask) -> Flask:
    """Add both views."""
    app.add_url_rule("/wait", view_func=wait)
    app.add_url_rule("/light", "light", lambda: {"name": "Tea"})
    return app


def make() -> Flask:
    """Make the application."""
    return add_views(Flask(__name__))


# What gunicorn reads with `--config`.
bind = f"127.0.0.1:{os.environ.get('PORT', 5000)}"
worker_class = "gthread"
threads = int(os.environ.get("CONCURRENCY", "16"))
loglevel = "error"
