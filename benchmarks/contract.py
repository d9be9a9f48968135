"""What the contract costs: CPU time in process beside bare Flask, in interleaved rounds.

Run it with the Python of a baked service, or with one that has the service's requirements. Bare
Flask has a ratio of 1.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from wsgiref.types import WSGIApplication

from werkzeug.test import EnvironBuilder

sys.path.insert(0, str(Path(__file__).parents[1] / "{{cookiecutter.service_slug}}" / "src"))

from flask import Blueprint
from flask import Flask
from flask import jsonify
from flask import request

from service import api
from service.chassis.http import problems
from service.chassis.http.application import Application
from service.domain import catalogue

ROUNDS = 41
CALLS = 200
BASKET = {"lines": [{"sku": "tea", "quantity": 2}, {"sku": "coffee", "quantity": 1}]}
REQUESTS: dict[str, dict[str, Any]] = {
    "GET, path parameter": {"path": "/v1/products/tea"},
    "GET, query": {"path": "/v1/products?limit=2"},
    "POST, nested body": {"path": "/v1/quotes", "method": "POST", "json": BASKET},
}


def bare() -> Flask:
    """The sample's routes in untouched Flask, as trusting as a hurried person writes them."""
    routes = Blueprint("bare", __name__, url_prefix="/v1")

    @routes.get("/products")
    def list_products() -> Any:
        limit = int(request.args.get("limit", 20))
        return {"items": [vars(product) for product in catalogue.STOCK[:limit]]}

    @routes.get("/products/<sku>")
    def get_product(sku: str) -> Any:
        return vars(catalogue.PRODUCTS[sku])

    @routes.post("/quotes")
    def create_quote() -> Any:
        lines = [(line["sku"], line["quantity"]) for line in request.get_json()["lines"]]
        quote = catalogue.quote(lines)
        return jsonify(lines=[vars(line) for line in quote.lines], total_cents=quote.total_cents)

    app = Flask(__name__)
    app.register_blueprint(routes)
    return app


def typed() -> Flask:
    app = Application(__name__)
    problems.init_app(app)
    api.init_app(app)
    return app


def caller(app: WSGIApplication, options: dict[str, Any]) -> Callable[[], float]:
    """Make a function that gives the CPU seconds of `CALLS` requests."""
    template = EnvironBuilder(**options).get_environ()
    body = json.dumps(options["json"]).encode() if "json" in options else b""

    def respond(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        if status != "200 OK":
            raise RuntimeError(f"{options['path']}: {status}")

    def call() -> float:
        environs = [
            template | {"wsgi.input": EnvironBuilder(data=body).input_stream} for _ in range(CALLS)
        ]
        start = time.thread_time()
        for environ in environs:
            b"".join(app(environ, respond))
        return time.thread_time() - start

    return call


def main() -> None:
    apps = (bare(), typed())
    print(
        "| request | bare Flask, us | with the contract, us | ratio, median of rounds (quartiles) |"
    )
    print("|---|---|---|---|")
    for name, options in REQUESTS.items():
        callers = [caller(app, options) for app in apps]
        rounds = [[call() for call in callers] for _ in range(ROUNDS)][1:]
        first, ratio, third = statistics.quantiles(
            [plain / contract for plain, contract in rounds], n=4
        )
        plain, contract = (1e6 * min(seconds) / CALLS for seconds in zip(*rounds, strict=True))
        print(
            f"| {name} | {plain:.1f} | {contract:.1f} | {ratio:.2f} ({first:.2f} to {third:.2f}) |"
        )


if __name__ == "__main__":
    main()
