"""What every service has: one concern per module, owned by the template."""
