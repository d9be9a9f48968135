"""`python -m service.seed` stores some orders to look at; what is there already stays as it is."""

import sys

from service.chassis.database import Database
from service.domain import orders
from service.settings import Settings

ORDERS = (
    orders.Wish("SEED-1", "tea", 2, "open", None),
    orders.Wish("SEED-2", "coffee", 1, "paid", "ground, please"),
    orders.Wish("SEED-3", "cocoa", 10, "shipped", None),
)


def seed(database: Database) -> int:
    """Store what is missing; return how many."""
    with database.transaction() as connection:
        missing = [wish for wish in ORDERS if not orders.known(connection, wish.reference)]
        for wish in missing:
            orders.add(connection, wish)
    return len(missing)


if __name__ == "__main__":
    database = Database(Settings.load())
    sys.stdout.write(f"{seed(database)} orders stored in {database.engine.url!r}\n")
