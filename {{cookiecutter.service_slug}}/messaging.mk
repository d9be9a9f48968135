# Messaging commands of the Makefile. BROKER_URL names the broker; without one nothing but the relay and the consumer is missing.
RABBITMQ := $(shell sed -n 's/^    image: \(.*rabbitmq:.*\)/\1/p' compose.messaging.yaml)
PINNED += compose.messaging.yaml
SECRETS += .secrets/broker-application
DEAD_LETTERS = docker compose run --rm --no-deps -T $(NAME)-consumer python -m service.chassis.messaging.dead_letters

OWNED := $(OWNED)|^(compose\.messaging\.yaml|messaging\.mk)

.PHONY: asyncapi dlq-list dlq-replay test-messaging

asyncapi: .venv/run ## Generate asyncapi.yaml from the events
	@$(BIN)/python -m service asyncapi >.venv/asyncapi.yaml && mv .venv/asyncapi.yaml asyncapi.yaml

dlq-list: ## List the dead letters of `make up`, with their reasons
	@$(DEAD_LETTERS) list

dlq-replay: ## Send the dead letters of `make up` to the consumer again (ID="..." for some)
	@$(DEAD_LETTERS) replay $(ID)

test-messaging: .venv/dev ## Run the tests on a real RabbitMQ and PostgreSQL (needs Docker)
	@trap 'docker rm --force --volumes $(NAME)-test $(NAME)-test-broker >/dev/null' EXIT INT TERM; \
	docker run --detach --name $(NAME)-test --env POSTGRES_HOST_AUTH_METHOD=trust --publish 127.0.0.1::5432 $(POSTGRES) -c fsync=off >/dev/null && \
	docker run --detach --name $(NAME)-test-broker --env RABBITMQ_DEFAULT_USER=test --env RABBITMQ_DEFAULT_PASS=unused --tmpfs /var/lib/rabbitmq --publish 127.0.0.1::5672 $(RABBITMQ) >/dev/null && \
	until docker exec $(NAME)-test pg_isready --quiet --host=127.0.0.1; do sleep 1; done && \
	until docker exec $(NAME)-test-broker rabbitmq-diagnostics --quiet check_port_connectivity >/dev/null 2>&1; do sleep 1; done && \
	export TEST_DATABASE_URL=postgresql://postgres:unused@$$(docker port $(NAME)-test 5432)/postgres?connect_timeout=60 && \
	export TEST_BROKER_URL=amqp://test:unused@$$(docker port $(NAME)-test-broker 5672) && \
	$(BIN)/python -m pytest $(or $(ARGS),tests/chassis/messaging)

.readable: .secrets/broker-application

# A shared broker takes the place of its own.
up: export BROKERS = $(if $(BROKER_URL),0,1)

up smoke: .rabbitmq-image

.rabbitmq-image:
	@docker image inspect $(RABBITMQ) >/dev/null 2>&1 || docker pull --quiet $(RABBITMQ)
