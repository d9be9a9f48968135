"""`make lint-migrations`: refuse SQL that stops a service at work or its previous release, and say the safe way.

One that is meant stands in the migration with its reason: `accepted = {"ban-drop-column": "unused since 1.4.0"}`.
"""

import io
import json
import re
import subprocess
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import Script
from alembic.script import ScriptDirectory

ROOT = Path(__file__).parents[1]
SQUAWK = (
    str(Path(sys.executable).with_name("squawk")),
    "--pg-version=18.0",
    "--reporter=json",
    "--stdin-filepath=-",
)
TASTE = (
    "prefer-text-field",
    "prefer-bigint-over-int",
    "prefer-robust-stmts",
)  # rules that are no danger
CONCURRENTLY = "in `with op.get_context().autocommit_block():`, with postgresql_concurrently=True"
LATER = (
    "first release code that does without it; in a later release drop it, and accept this finding"
)
STEPS = "add the new one, write both, fill it, read the new one, drop the old one later (database/README.md)"
LIMITS = "set it first, as migrations/env.py does"
NOT_VALID = "add it with postgresql_not_valid=True; VALIDATE CONSTRAINT in a migration of its own"
SAFE = {
    "adding-foreign-key-constraint": NOT_VALID,
    "adding-not-nullable-field": "add a CHECK (... IS NOT NULL) that is NOT VALID, validate it, then SET NOT NULL",
    "adding-required-field": "add it nullable or with a server_default: the previous release does not set it",
    "ban-drop-column": LATER,
    "ban-drop-table": LATER,
    "changing-column-type": STEPS,
    "constraint-missing-not-valid": NOT_VALID,
    "renaming-column": STEPS,
    "renaming-table": STEPS,
    "require-concurrent-index-creation": CONCURRENTLY,
    "require-concurrent-index-deletion": CONCURRENTLY,
    "require-lock-timeout": LIMITS,
    "require-statement-timeout": LIMITS,
    "rows-in-migration": "change rows in batches, in a job after the roll-out: a migration would lock them all",
}
ROWS = re.compile(r"^\s*(?:UPDATE|DELETE FROM) (?!alembic_version)", re.IGNORECASE)


def findings(sql: str, accepted: Collection[str] = ()) -> Iterator[str]:
    """Yield the rule, the statement and the safe way for each danger in `sql`."""
    squawk = (*SQUAWK, f"--exclude={','.join((*TASTE, *accepted))}")
    done = subprocess.run(squawk, input=sql, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode not in (0, 1) or not done.stdout:
        raise RuntimeError(done.stderr)
    lines = sql.splitlines()
    for finding in json.loads(done.stdout):
        rule = finding["rule_name"]
        yield f"{rule}: {lines[finding['line']].strip()}\n    instead: {SAFE.get(rule) or finding['help']}"
    if "rows-in-migration" not in accepted:
        for line in filter(ROWS.match, lines):
            yield f"rows-in-migration: {line.strip()}\n    instead: {SAFE['rows-in-migration']}"


def sql_of(migration: Script, project: Path = ROOT) -> str:
    """Return what the migration sends to PostgreSQL."""
    output = io.StringIO()
    config = Config(toml_file=project / "pyproject.toml", output_buffer=output)
    command.upgrade(config, f"{migration.down_revision or 'base'}:{migration.revision}", sql=True)
    return output.getvalue()


def main(project: Path = ROOT) -> int:
    """Print the findings; return the exit status."""
    found = 0
    for migration in ScriptDirectory.from_config(
        Config(toml_file=project / "pyproject.toml")
    ).walk_revisions():
        accepted = getattr(migration.module, "accepted", {})
        for finding in findings(sql_of(migration, project), accepted):
            found += 1
            sys.stdout.write(f"{Path(migration.path).name}: {finding}\n")
    return min(found, 1)


if __name__ == "__main__":
    sys.exit(main())
