"""What knowledge bases and files may be called. Names are labels: nothing on disk is ever named after them."""

from __future__ import annotations

import re
import unicodedata

from backends.errors import InvalidRequest

# Control characters, lone surrogates, line separators, and the marks that turn the direction of what follows.
_FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def base_name(name: str) -> str:
    """The name of a knowledge base, trimmed and in composed form. Raises InvalidRequest when it cannot be one."""
    name = unicodedata.normalize("NFC", name).strip()
    if not 1 <= len(name) <= 100:
        raise InvalidRequest(f"A knowledge base's name has 1 to 100 characters; this one has {len(name)}.")
    if _FORBIDDEN.search(name):
        raise InvalidRequest("A knowledge base's name must not hold control characters; leave them out.")
    if name in (".", ".."):
        raise InvalidRequest("A knowledge base cannot be named by dots alone; choose another name.")
    return name


def file_label(name: str) -> str:
    """What a file is shown as: its last part, without what cannot be shown, at most 255 characters, never empty."""
    label = unicodedata.normalize("NFC", _FORBIDDEN.sub("", name)).replace("\\", "/").rsplit("/", 1)[-1].strip()
    if label in ("", ".", ".."):
        return "unnamed"
    if label.startswith(".") and _FORBIDDEN.search(name):  # nothing but the suffix was left
        label = "unnamed" + label
    if len(label) > 255:
        # The suffix says which reader the file needs.
        stem, dot, suffix = label.rpartition(".")
        label = stem[: 254 - len(suffix)] + dot + suffix if dot and len(suffix) < 16 else label[:255]
    return label
