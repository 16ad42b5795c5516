"""The one tree of errors a user may see; each message is one sentence or two: the cause, then the remedy.

    QuartetError
    ├── InvalidRequest        a field of the request is wrong
    ├── NotFound              what was named does not exist
    ├── Conflict              it exists already, or something else is under way
    ├── TooLarge              over a named limit
    ├── Unauthorized          nobody that is known: no token or login, or a wrong one
    ├── Forbidden             known, but in a role that may not do this
    ├── StorageFull           the disk has no room
    ├── StorageUnreachable    the database does not answer
    ├── Busy                  too much at once; carries retry_after
    │   └── NotReady          the model is on its way
    └── ModelError            about models and engines
        ├── NoModelLoaded     nothing is there to answer
        ├── ModelUnusable     this path or id cannot be served (no model, unsupported, damaged, too large)
        ├── HubUnreachable    the hub did not answer
        └── EngineFailed      the engine did not start, or was lost while it answered

HTTP status codes are not known here: api/errors.py has their one table.
"""

from __future__ import annotations


class QuartetError(Exception):
    """Base of everything that may be shown to a user. `code` is stable and is what translations and clients key on."""

    code = "error"

    @property
    def message(self) -> str:
        """The sentence to show."""
        return str(self)


class InvalidRequest(QuartetError):
    """`field` names the field that is wrong, where it is one."""

    code = "invalid_request"

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class NotFound(QuartetError):
    code = "not_found"


class Conflict(QuartetError):
    code = "conflict"


class TooLarge(QuartetError):
    code = "too_large"


class Unauthorized(QuartetError):
    code = "unauthorized"


class Forbidden(QuartetError):
    code = "forbidden"


class StorageFull(QuartetError):
    code = "storage_full"


class StorageUnreachable(QuartetError):
    code = "storage_unreachable"


class Busy(QuartetError):
    """`retry_after` is in seconds."""

    code = "busy"

    def __init__(self, message: str, retry_after: int = 5) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NotReady(Busy):
    code = "not_ready"


class ModelError(QuartetError):
    code = "model_error"


class NoModelLoaded(ModelError):
    code = "no_model"


class ModelUnusable(ModelError):
    code = "model_unusable"


class HubUnreachable(ModelError):
    code = "hub_unreachable"


class EngineFailed(ModelError):
    code = "engine_failed"
