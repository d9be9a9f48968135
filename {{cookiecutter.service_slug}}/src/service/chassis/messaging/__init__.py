"""Events by RabbitMQ: outbox, relay, consumer, inbox and dead letters."""
