"""Reads the fields of a JSON body, each with an error that names it. Knows no route."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import orjson

from backends.errors import InvalidRequest

Choice = TypeVar("Choice", bound=str)


def decoded(body: bytes) -> str:
    """The text of a body, a byte order mark left out. Raises InvalidRequest for what is not UTF-8."""
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"The body is not UTF-8 text: byte {error.start + 1} cannot be read.") from None


def load(text: str, holding: str) -> Mapping[str, Any]:
    """The JSON object in a body; `holding` says what it should hold, for whoever sends something else."""
    try:
        value = json.loads(text, parse_constant=_no_constant)
        if "\\ud" in text.lower():
            # JSON can spell half of a surrogate pair, which no encoder takes.
            value = json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
    except json.JSONDecodeError as error:
        hint = _hint(text[error.pos : error.pos + 5])
        raise InvalidRequest(
            f"The body is not valid JSON: line {error.lineno}, column {error.colno}: {error.msg}{hint}."
        ) from None
    except RecursionError:
        raise InvalidRequest("The body is not usable JSON: it is nested too deeply.") from None
    except ValueError:
        raise InvalidRequest("The body is not usable JSON: a number in it is too long.") from None
    if not isinstance(value, dict):
        raise InvalidRequest(f"The body must be a JSON object with {holding}.")
    return value


def _no_constant(name: str) -> NoReturn:
    raise InvalidRequest(f"The body is not valid JSON: {name} is not a JSON number.")


def _hint(at: str) -> str:
    if at.startswith(("True", "False", "None")):
        return " (JSON writes true, false and null)"
    if at.startswith("'"):
        return " (JSON takes double quotes)"
    return ""


def text_in(body: Mapping[str, Any], name: str) -> str:
    """A text, "" where there is none."""
    value = body.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidRequest(f"{name} must be a text.", name)
    return value


def texts(body: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """A text or a list of them."""
    value = body.get(name)
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InvalidRequest(f"{name} must be a list of texts.", name)
    return tuple(value)


def passed_on(body: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The fields of these names that are there, for an engine to understand: whatever JSON can be sent again."""
    values = {name: body[name] for name in names if body.get(name) is not None}
    for name, value in values.items():
        try:
            orjson.dumps([[[[value]]]])  # about as deep as it will stand
        except TypeError:
            raise InvalidRequest(
                f"{name} cannot be passed on: a number in it is beyond 64 bits, or it is nested too deeply.", name
            ) from None
    return values


def choice(body: Mapping[str, Any], name: str, options: Sequence[Choice]) -> Choice:
    """One of a few words; the first of them where there is none."""
    value = text_in(body, name) or options[0]
    for option in options:
        if option == value:
            return option
    raise InvalidRequest(f"{name} must be {', '.join(options[:-1])} or {options[-1]}.", name)


def flag(body: Mapping[str, Any], name: str) -> bool | None:
    """True or false, also spelled as a text, as real clients do."""
    value = body.get(name)
    if value is None or isinstance(value, bool):
        return value
    spelled = {"true": True, "false": False}.get(value.lower()) if isinstance(value, str) else None
    if spelled is None:
        raise InvalidRequest(f"{name} must be true or false.", name)
    return spelled


def number(body: Mapping[str, Any], name: str) -> float | None:
    """A number, whole or not."""
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidRequest(f"{name} must be a number.", name)
    try:
        return float(value)
    except OverflowError:
        raise InvalidRequest(f"{name} is too large a number.", name) from None


def integer(body: Mapping[str, Any], name: str) -> int | None:
    """A whole number, also written as 3.0."""
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        raise InvalidRequest(f"{name} must be a whole number.", name)
    return int(value)
