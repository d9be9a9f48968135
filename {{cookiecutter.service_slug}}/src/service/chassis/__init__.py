"""What every service needs, one package per concern; it imports nothing of the service's own."""
