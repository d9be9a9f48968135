"""The service's settings: those of the packages it uses, and its own."""

from service.chassis.client.settings import ClientSettings
from service.chassis.data.settings import DatabaseSettings  # only-if: database == "postgresql"
from service.chassis.messaging.settings import MessagingSettings  # only-if: messaging == "rabbitmq"
from service.chassis.server.settings import ServerSettings
from service.chassis.telemetry.settings import TelemetrySettings


class Settings(
    ServerSettings,
    TelemetrySettings,
    ClientSettings,
    DatabaseSettings,  # only-if: database == "postgresql"
    MessagingSettings,  # only-if: messaging == "rabbitmq"
):
    """Read once at the start, from environment variables of the same names in upper case."""
