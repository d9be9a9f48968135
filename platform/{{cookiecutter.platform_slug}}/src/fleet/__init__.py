"""The platform's commands: the gateway's routes, and the services behind it as one system."""
