"""What a resource of the API needs: its database, pages, preconditions and idempotency."""
