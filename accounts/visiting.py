"""How a request carries its visitor from the door to page and API, and the one rule of roles. Knows no framework."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

from accounts.types import Visitor
from backends.errors import Forbidden

_KEY = "quartet.visitor"


def set_visitor(scope: MutableMapping[str, Any], visitor: Visitor) -> None:
    """Note in a request's ASGI scope whose it is."""
    scope[_KEY] = visitor


def visitor_of(scope: Mapping[str, Any]) -> Visitor:
    """Whose request this is. A request that did not come through the door is nobody's: KeyError."""
    visitor: Visitor = scope[_KEY]
    return visitor


def require_admin(visitor: Visitor) -> None:
    """Raises Forbidden."""
    if not visitor.admin:
        raise Forbidden("Only admins may do this: ask one, or log in as one.")
