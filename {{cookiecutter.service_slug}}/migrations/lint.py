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

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import RevisionStep
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
EXCLUDED = {"prefer-text-field", "prefer-bigint-over-int", "prefer-robust-stmts"}
OWN_RULES = {"native-enum", "reads-rows", "rows-in-migration"}
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
    "native-enum": "sa.Text or sa.Enum(..., native_enum=False): a type of its own is not there when"
    " a column is added, and stays when the table is dropped",
    "reads-rows": "read and change rows in a job after the rollout; to accept it is to accept all"
    " its SQL, which is only known where the rows are",
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

NATIVE_ENUM = re.compile(r"\b(?:Enum|ENUM)\((?![^)]*native_enum=False)")


def findings(sql: str, accepted: Collection[str] = ()) -> Iterator[str]:
    """Yield the rule, the statement and the safe way for each unsafe statement."""
    squawk = (*SQUAWK, f"--exclude={','.join(EXCLUDED.union(accepted) - OWN_RULES)}")
    done = subprocess.run(  # noqa: S603 the command is this file's own
        squawk, input=sql, capture_output=True, text=True, check=False
    )
    if done.returncode not in (0, 1) or not done.stdout:
        yield f"squawk: {done.stderr.strip()}"
        return
    lines = sql.splitlines()
    for finding in json.loads(done.stdout):
        rule = finding["rule_name"]
        remedy = REMEDIES.get(rule) or finding["help"]
        yield f"{rule}: {lines[finding['line']].strip()}\n    instead: {remedy}"
    if "rows-in-migration" not in accepted:
        for line in filter(CHANGES_ROWS.match, lines):
            remedy = REMEDIES["rows-in-migration"]
            yield f"rows-in-migration: {line.strip()}\n    instead: {remedy}"


class NoDatabaseError(Exception):
    """A migration asked the database for something, and here is none."""


def sql_of(migration: Script, scripts: ScriptDirectory, project: Path = ROOT) -> str:
    """Return the SQL that the migration, be it a merge, sends to PostgreSQL.

    Raise NoDatabaseError where it depends on what a database answers.
    """

    def upgrade() -> None:
        try:
            migration.module.upgrade()
        except Exception as error:
            raise NoDatabaseError(f"{type(error).__name__}: {error}") from error

    output = io.StringIO()
    config = Config(toml_file=project / "pyproject.toml", output_buffer=output)
    step = RevisionStep(scripts.revision_map, migration, is_upgrade=True)
    step.migration_fn = upgrade
    with EnvironmentContext(
        config,
        scripts,
        fn=lambda _heads, _context: [step],
        as_sql=True,
        starting_rev=migration.down_revision,
    ):
        scripts.run_env()
    return output.getvalue()


def findings_of(migration: Script, scripts: ScriptDirectory, project: Path) -> Iterator[str]:
    """Yield the findings of a migration that it does not accept."""
    accepted = getattr(migration.module, "accepted", {})
    if (
        NATIVE_ENUM.search(Path(migration.path).read_text("utf-8"))
        and "native-enum" not in accepted
    ):
        yield f"native-enum: it has a type of its own\n    instead: {REMEDIES['native-enum']}"
    if "reads-rows" in accepted:
        return
    try:
        sql = sql_of(migration, scripts, project)
    except NoDatabaseError as error:
        yield f"reads-rows: {error}\n    instead: {REMEDIES['reads-rows']}"
        return
    yield from findings(sql, accepted)


def main(project: Path = ROOT) -> int:
    """Print the findings; return the exit status."""
    status = 0
    scripts = ScriptDirectory.from_config(Config(toml_file=project / "pyproject.toml"))
    for migration in scripts.walk_revisions():
        for finding in findings_of(migration, scripts, project):
            status = 1
            sys.stdout.write(f"{Path(migration.path).name}: {finding}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
