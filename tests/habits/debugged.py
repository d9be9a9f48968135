"""A service of which a view fails, for Flask's development server."""

from flask import Flask

from habits.common import fail
from service.app import create_app as create_service


def create_app() -> Flask:
    """Make the service with a view that fails."""
    app = create_service()
    app.add_url_rule("/fail", view_func=fail)
    return app
