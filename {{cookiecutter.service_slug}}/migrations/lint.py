"""`make lint-migrations`: refuse SQL that blocks a running service or breaks its previous release.

Each finding names the safe way. To accept one, state the reason in the migration:
`accepted = {"ban-drop-column": "unused since 1.4.0"}`.
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
# Rules about style, not safety.
EXCLUDED = ("prefer-text-field", "prefer-bigint-over-int", "prefer-robust-stmts")
CONCURRENTLY = "in `with op.get_context().autocommit_block():`, with postgresql_concurrently=True"
LATER = (
    "release code that no longer uses it; drop it in a later release, and accept this finding there"
)
STEPS = (
    "add the new one, write both, backfill, read the new one, drop the old one later"
    " (database/README.md)"
)
TIMEOUTS = "set it first, as migrations/env.py does"
NOT_VALID = "add it with postgresql_not_valid=True; VALIDATE CONSTRAINT in a separate migration"
REMEDIES = {
    "adding-foreign-key-constraint": NOT_VALID,
    "adding-not-nullable-field": "add a CHECK (... IS NOT NULL) that is NOT VALID, validate it,"
    " then SET NOT NULL",
    "adding-required-field": "add it nullable or with a server_default: the previous release does"
    " not set it",
    "ban-drop-column": LATER,
    "ban-drop-table": LATER,
    "changing-column-type": STEPS,
    "constraint-missing-not-valid": NOT_VALID,
    "renaming-column": STEPS,
    "renaming-table": STEPS,
    "require-concurrent-index-creation": CONCURRENTLY,
    "require-concurrent-index-deletion": CONCURRENTLY,
    "require-lock-timeout": TIMEOUTS,
    "require-statement-timeout": TIMEOUTS,
    "rows-in-migration": "change rows in batches, in a job after the rollout: a migration would"
    " lock them all",
}
CHANGES_ROWS = re.compile(r"^\s*(?:UPDATE|DELETE FROM) (?!alembic_version)", re.IGNORECASE)


def findings(sql: str, accepted: Collection[str] = ()) -> Iterator[str]:
    """Yield the rule, the statement and the safe way for each unsafe statement."""
    squawk = (*SQUAWK, f"--exclude={','.join((*EXCLUDED, *accepted))}")
    done = subprocess.run(  # noqa: S603 the command is this file's own
        squawk, input=sql, capture_output=True, text=True, check=False
    )
    if done.returncode not in (0, 1) or not done.stdout:
        raise RuntimeError(done.stderr)
    lines = sql.splitlines()
    for finding in json.loads(done.stdout):
        rule = finding["rule_name"]
        remedy = REMEDIES.get(rule) or finding["help"]
        yield f"{rule}: {lines[finding['line']].strip()}\n    instead: {remedy}"
    if "rows-in-migration" not in accepted:
        for line in filter(CHANGES_ROWS.match, lines):
            remedy = REMEDIES["rows-in-migration"]
            yield f"rows-in-migration: {line.strip()}\n    instead: {remedy}"


def sql_of(migration: Script, project: Path = ROOT) -> str:
    """Return the SQL that the migration sends to PostgreSQL."""
    output = io.StringIO()
    config = Config(toml_file=project / "pyproject.toml", output_buffer=output)
    command.upgrade(config, f"{migration.down_revision or 'base'}:{migration.revision}", sql=True)
    return output.getvalue()


def main(project: Path = ROOT) -> int:
    """Print the findings; return the exit status."""
    status = 0
    scripts = ScriptDirectory.from_config(Config(toml_file=project / "pyproject.toml"))
    for migration in scripts.walk_revisions():
        accepted = getattr(migration.module, "accepted", {})
        for finding in findings(sql_of(migration, project), accepted):
            status = 1
            sys.stdout.write(f"{Path(migration.path).name}: {finding}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
