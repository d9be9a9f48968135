# The commands for what joined. SERVICE names one, by its name or folder; a service's own Makefile calls them too.
.PHONY: up down join leave deploy rollback scale release fleet config-check apply

up: .venv/run ## Start the gateway and all services, and replace what changed (PORT=80 for another port than 8080)
	@$(FLEET) up

down: ## Stop them; the services' data stay
	docker compose down --remove-orphans

join: .venv/run ## Let a service join (SERVICE=../orders)
	@$(FLEET) join "$(SERVICE)"

leave: .venv/run ## Let a service leave (SERVICE=orders)
	@$(FLEET) leave "$(SERVICE)"

deploy: .venv/run ## Build one service and replace it, without losing a request (SERVICE=orders)
	@$(FLEET) deploy "$(SERVICE)"

rollback: .venv/run ## Return one service to the image before (SERVICE=orders), or all to the release before
	@$(FLEET) rollback "$(SERVICE)"

scale: .venv/run ## Run so many replicas of a service (orders=3)
	@$(FLEET) scale $(MAKEOVERRIDES)

release: .venv/run ## Write release.lock: the images that run
	@$(FLEET) release

fleet: .venv/run ## Show what runs (ARGS=--json for programs)
	@$(FLEET) status $(ARGS)

config-check: .venv/run ## Check config/ against every service's own settings
	@$(FLEET) config-check

apply: .venv/run ## Roll out the committed config/ where it changed
	@$(FLEET) apply
