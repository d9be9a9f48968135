"""Events: their data as a model, and around it the envelope of CloudEvents 1.0 as JSON.

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md
"""

from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, WrapValidator

CONTENT_TYPE = "application/cloudevents+json; charset=UTF-8"
MAX_SIZE = 65_536  # bytes of an event, which every intermediary has to forward

# Printable, because it is stored and logged.
Text = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]+$")]
State = Annotated[str, Field(max_length=512)]


def _or_none(value: Any, validate: Any) -> Any:
    """Leave out a trace context that is malformed: no event is refused for it."""
    try:
        return validate(value)
    except ValidationError:
        return None


class Event(BaseModel):
    """The data of an event. A subclass names its type, which begins with its service's name.

    Fields may be added to a type: receivers ignore those that they do not know.
    """

    model_config = ConfigDict(
        strict=True,
        extra="ignore",
        frozen=True,
        json_schema_serialization_defaults_required=True,
    )
    TYPE: ClassVar[str]


T = TypeVar("T", bound=Event)


class Attributes(BaseModel):
    """What CloudEvents says about every event; extensions that are not named are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    specversion: Literal["1.0"]
    id: Text
    source: Text
    type: Text
    subject: Text | None = None
    time: AwareDatetime | None = None
    datacontenttype: Text | None = None
    traceparent: Annotated[Text | None, WrapValidator(_or_none)] = None
    tracestate: Annotated[State | None, WrapValidator(_or_none)] = None

    @property
    def key(self) -> str:
        """Return what the event is about: events of one key are handled in order."""
        return self.subject or self.id


class CloudEvent(Attributes, Generic[T]):
    """An event as a handler gets it: its attributes, and its data as a model."""

    data: T


class RefusedError(Exception):
    """An event that no repetition can help; a handler may raise it, with the reason."""
