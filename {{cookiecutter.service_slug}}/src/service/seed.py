"""`python -m service.seed` stores some orders to look at; existing ones stay as they are."""

import sys

from service.chassis.data.connections import Database
from service.domain import orders
from service.events import orders as events  # only-if: messaging == "rabbitmq"
from service.settings import Settings
from service.storage import orders as storage

DRAFTS = (
    orders.OrderDraft("SEED-1", "tea", 2, "open", None),
    orders.OrderDraft("SEED-2", "coffee", 1, "paid", "ground, please"),
    orders.OrderDraft("SEED-3", "cocoa", 10, "shipped", None),
)


def seed(database: Database) -> int:
    """Store what is missing; return how many."""
    stored = 0
    with database.transaction() as connection:
        for draft in DRAFTS:
            if not storage.reference_exists(connection, draft.reference):
                order = orders.place(draft)
                storage.insert(connection, order)
                events.publish_placed(connection, order)  # only-if: messaging == "rabbitmq"
                stored += 1
    return stored


if __name__ == "__main__":
    database = Database(Settings.load())
    sys.stdout.write(f"{seed(database)} orders stored in {database.engine.url!r}\n")
