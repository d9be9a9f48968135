"""The rules: what must not change in a contract, and what to do instead.

Of the two sides of a contract one gives and one takes. Of requests the last release's callers give
and the service takes: a request may widen. Of answers and events the service gives and the callers
take: an answer may narrow. All that is given must fit what is taken.
"""

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from contracts.flatten import Json

REQUEST = "request"
ANSWER = "answer"
ERROR = "error"  # an answer whose readers take a problem's unknown type for about:blank
ANSWERS = (ANSWER, ERROR)
EVERY = (REQUEST, *ANSWERS)


class Limit(NamedTuple):
    """A keyword with one value; `fits` says whether a given value fits the taken one."""

    flows: Collection[str]
    fits: Callable[[Any, Any], bool]
    remedy: str


def at_most(given: Any, taken: Any) -> bool:
    """What is taken ends at a value."""
    return taken is None or (given is not None and given <= taken)


def at_least(given: Any, taken: Any) -> bool:
    """What is taken begins at a value."""
    return taken is None or (given is not None and given >= taken)


def alike(given: Any, taken: Any) -> bool:
    """What is taken is all, or the same."""
    return taken is None or given == taken


def implied(given: Any, taken: Any) -> bool:
    """What is taken need not be so, or is."""
    return bool(given or not taken)


def is_kind(given: Any, taken: Any) -> bool:
    """What is taken is of any type, of the same, or of one that has the given one in it."""
    return alike(given, taken) or (given, taken) == ("integer", "number")


def kept(given: Any, taken: Any) -> bool:
    """What callers leave out is what it was."""
    return given is None or given == taken


KEEP_LIMIT = "keep the limit"
KEEP = "keep it as it was"
LIMITS: dict[str, Limit] = {
    "type": Limit(EVERY, is_kind, "keep the type; a field of another name can have the other"),
    "maximum": Limit(EVERY, at_most, KEEP_LIMIT),
    "maxLength": Limit(EVERY, at_most, KEEP_LIMIT),
    "maxItems": Limit(EVERY, at_most, KEEP_LIMIT),
    "maxProperties": Limit(EVERY, at_most, KEEP_LIMIT),
    "minimum": Limit(EVERY, at_least, KEEP_LIMIT),
    "minLength": Limit(EVERY, at_least, KEEP_LIMIT),
    "minItems": Limit(EVERY, at_least, KEEP_LIMIT),
    "minProperties": Limit(EVERY, at_least, KEEP_LIMIT),
    "uniqueItems": Limit(EVERY, implied, KEEP_LIMIT),
    "multipleOf": Limit(EVERY, alike, KEEP),
    "pattern": Limit(EVERY, alike, KEEP),
    "format": Limit(EVERY, alike, KEEP),
    "contentEncoding": Limit(EVERY, alike, KEEP),
    "contentMediaType": Limit(EVERY, alike, KEEP),
    "default": Limit((REQUEST,), kept, "keep the default, which callers rely on"),
}


class Names(NamedTuple):
    """A set of names; `excess` returns those given that are not taken."""

    flows: Collection[str]
    excess: Callable[[Json, Json], set[str]]
    what: str
    remedy: str


def fields(schema: Json) -> set[str]:
    """Return the names of a schema's fields."""
    return set(schema.get("properties", ()))


def lacking(given: Json, taken: Json) -> set[str]:
    """Return the fields that are required and not always given."""
    return set(taken.get("required", ())) - set(given.get("required", ()))


def untaken(keyword: str) -> Callable[[Json, Json], set[str]]:
    """Make the check that all values given are among those taken."""

    def excess(given: Json, taken: Json) -> set[str]:
        allowed: set[str] = taken.get(keyword, set())
        found: set[str] = given.get(keyword, {"anything else"})
        return found - allowed if keyword in taken else set()

    return excess


def is_open(schema: Json) -> bool:
    """Whether an object may have fields that nothing describes."""
    return schema.get("additionalProperties", True) is not False


NAMES: dict[str, Names] = {
    "value refused": Names(
        (REQUEST,), untaken("enum"), "no longer takes", "go on taking it, if only as another"
    ),
    "value added": Names(
        (ANSWER,), untaken("enum"), "may also be", "send it in a field of another name"
    ),
    # The other way round: what the old contract names must go on being named.
    "problem type removed": Names(
        (ERROR,),
        lambda given, taken: set(taken.get("enum", ())) - set(given.get("enum", ())),
        "is no longer",
        "keep the problem's type",
    ),
    "variant refused": Names(
        (REQUEST,), untaken("mapping"), "no longer takes the variant", "go on taking it"
    ),
    "variant added": Names(
        ANSWERS, untaken("mapping"), "may also be the variant", "send it in a field of another name"
    ),
    "input required": Names(
        (REQUEST,),
        lacking,
        "requires",
        "give it a default",
    ),
    "field optional": Names(
        ANSWERS,
        lambda given, taken: lacking(given, taken) & fields(given),
        "may be without",
        "go on sending it always",
    ),
    "input removed": Names(
        (REQUEST,),
        lambda given, taken: fields(given) - fields(taken),
        "no longer takes",
        "go on taking it, if only to ignore it",
    ),
    "field removed": Names(
        ANSWERS,
        lambda given, taken: fields(taken) - fields(given),
        "no longer has",
        "go on sending it, marked as deprecated",
    ),
    "object closed": Names(
        (REQUEST,),
        lambda given, taken: {"*"} if is_open(given) and not is_open(taken) else set(),
        "no longer takes",
        "leave additionalProperties as it was",
    ),
}

# What does not concern one schema. The remedy of each.
OTHERS: dict[str, str] = {
    "not understood": "undo it, or show that it breaks nobody and teach scripts/contracts the rule",
    "unreadable": "mend the document",
    "path removed": "keep the path, marked as deprecated",
    "operation removed": "keep the operation, marked as deprecated",
    "parameter removed": "go on taking it, if only to ignore it",
    "parameter required": "give it a default",
    "body removed": "go on taking it, if only to ignore it",
    "body required": "let it be absent",
    "content type refused": "go on taking it",
    "content type removed": "go on answering in it",
    "answer removed": "go on documenting it, in raises= or by the view's return type",
    "answer added": "answer with a status that callers know",
    "header removed": "go on sending it",
    "header optional": "go on sending it always",
    "security required": "let in who was let in, until the next major version",
    "security changed": "keep the scheme, and offer another beside it",
    "server removed": "keep the address",
    "event removed": "go on sending it",  # only-if: messaging == "rabbitmq"
}

REMEDIES: dict[str, str] = {
    **{name: rule.remedy for name, rule in LIMITS.items()},
    **{name: rule.remedy for name, rule in NAMES.items()},
    **OTHERS,
}
