# Database commands of the Makefile. DATABASE_URL names the database; the default is SQLite in .data.
ALEMBIC := $(BIN)/python -m alembic
SECRETS := $(addprefix .secrets/,database-superuser database-owner database-application)
POSTGRES := $(shell sed -n 's/^    image: \(.*postgres:.*\)/\1/p' compose.database.yaml)
PINNED += compose.database.yaml
PREVIOUS := .venv/previous
IN_DATABASE = docker compose exec -T $(NAME)-db

OWNED := $(OWNED)|^(compose\.database\.yaml|database\.mk|database/roles\.sh|migrations/(env|lint)\.py)

.PHONY: migrate migration lint-migrations roles backup restore test-previous test-postgres

migrate: .venv/run ## Upgrade the database to the newest migration
	$(ALEMBIC) upgrade head

migration: .venv/dev migrate ## Generate a migration from the changes to the tables (m="add a note")
	@test -n "$(m)" || { echo 'Describe it: make migration m="add a note"' >&2; exit 1; }
	$(ALEMBIC) revision --autogenerate --message "$(m)"

lint-migrations: .venv/dev ## Refuse unsafe SQL in migrations (database/README.md names the safe ways)
	$(BIN)/python migrations/lint.py

# {% if cookiecutter.sample == "yes" %}
.PHONY: seed
seed: migrate ## Store sample orders, once
	$(BIN)/python -m service.seed

# {% endif %}
roles: $(SECRETS) ## Create the roles in the database of `make up`, or give them the passwords in .secrets
	@$(IN_DATABASE) sh /docker-entrypoint-initdb.d/roles.sh

backup: ## Back up the database of `make up` to backups/
	@mkdir -p backups; file=backups/$$(date -u +%Y%m%dT%H%M%SZ).dump; \
	$(IN_DATABASE) pg_dump --username postgres --format custom service >$$file && echo "$$file" || { rm -f $$file; exit 1; }

restore: ## Restore a backup to the database of `make up` (FILE=backups/...)
	$(IN_DATABASE) pg_restore --username postgres --dbname service --clean --if-exists --single-transaction <"$(FILE)"

# During a rollout and after a rollback, old code runs on new tables.
test-previous: .venv/dev ## Run the tests of the last release (its tag) on the newest tables
	@tag=$$(PYTHONPATH=scripts $(BIN)/python -c "from contracts import check; print(check.last_release(check.ROOT) or '')") || exit 1; \
	[ -n "$$tag" ] || { echo "no release has a tag yet"; exit 0; }; \
	rm -rf $(PREVIOUS) && mkdir $(PREVIOUS) && git archive "$$tag" | tar -x -C $(PREVIOUS) && \
	if [ ! -d $(PREVIOUS)/migrations ]; then echo "$$tag has no database"; exit 0; fi && \
	rm -rf $(PREVIOUS)/migrations/versions && cp -R migrations/versions $(PREVIOUS)/migrations && \
	echo "The tests of $$tag on the newest tables:" && cd $(PREVIOUS) && \
	"$(CURDIR)/$(BIN)/python" -m pytest $(addprefix --ignore=tests/,test_migrations.py test_database_files.py test_consistency.py chassis/server) $(ARGS)

test-postgres: .venv/dev ## Run the tests on a real PostgreSQL (needs Docker)
	@trap 'docker rm --force --volumes $(NAME)-test >/dev/null' EXIT INT TERM; \
	docker run --detach --name $(NAME)-test --env POSTGRES_HOST_AUTH_METHOD=trust --publish 127.0.0.1::5432 $(POSTGRES) -c fsync=off >/dev/null && \
	until docker exec $(NAME)-test pg_isready --quiet --host=127.0.0.1; do sleep 1; done && \
	address=$$(docker port $(NAME)-test 5432) && \
	export TEST_DATABASE_URL=postgresql://postgres:unused@$$address/postgres?connect_timeout=60 && \
	$(BIN)/python -m pytest $(ARGS) && $(MAKE) --no-print-directory test-previous

lint: lint-migrations

# The service itself never migrates; this is for a developer's own SQLite.
run dev: $(if $(DATABASE_URL)$(DATABASE_URL_FILE),,migrate)

.prepared: .readable .postgres-image

.postgres-image:
	@docker image inspect $(POSTGRES) >/dev/null 2>&1 || docker pull --quiet $(POSTGRES)

# The containers' users read these, whatever the umask; the mode of .secrets keeps other users of this machine out.
.readable: $(SECRETS)
	@chmod a+r $(SECRETS) database/roles.sh

.secrets/%:
	@mkdir -p .secrets && chmod 700 .secrets && od -An -N24 -tx1 /dev/urandom | tr -d ' \n' >$@
