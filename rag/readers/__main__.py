"""The child process that reads one document: an order on stdin, lines of JSON on stdout. Knows no store and no web.

It confines itself before it opens the file, and ends when its parent does, for then stdin ends.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rag.errors import UnreadableFile
from rag.readers import Limits, Reading, too_much_text
from rag.text import is_readable

_LOT = 200_000  # characters


def main() -> None:
    order = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    out = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="replace")
    os.dup2(2, 1)  # nothing a library prints may get among the answers
    limits = Limits(**order["limits"])
    reader = importlib.import_module(f"rag.readers.{order['reader']}")
    _confine(limits)

    def say(**message: Any) -> None:
        out.write(json.dumps(message, ensure_ascii=False) + "\n")
        out.flush()

    try:
        reading = reader.read(Path(order["path"]), limits, lambda done, total: say(progress=[done, total]))
        _check(reading, limits)
    except UnreadableFile as error:
        say(reason=error.reason, message=error.message)
    except (MemoryError, RecursionError):
        say(reason="unsafe", message="Reading this file takes more memory than one document may have: split it up.")
    except Exception:  # noqa: BLE001  a reader is to foresee what a file may provoke; the log shows where it did not
        say(failure=traceback.format_exc(limit=-4))
    else:
        for section in reading.sections:
            for text in _lots(section.text):
                say(text=text, page=section.page, heading=section.heading)
        say(note=reading.note)
    out.flush()
    os._exit(0)  # at once: there is nothing to clean up, and what a hostile file has built may be deep


def _lots(text: str) -> Iterator[str]:
    """A text as it is or, where it is very long, in parts that end with a paragraph: nobody has to hold all of it."""
    start = 0
    while start < len(text):
        end = start + _LOT
        if end < len(text):
            end = text.rfind("\n\n", start, end) + 2 if "\n\n" in text[start:end] else end
        yield text[start:end]
        start = end


def _confine(limits: Limits) -> None:
    """Bounds for memory and time of this process; it writes no file and leaves no core."""
    for kind, value, grace in (
        (resource.RLIMIT_AS, limits.memory, 0),
        (resource.RLIMIT_CPU, limits.cpu_seconds, 5),  # at the first bound a signal that tells why, then the end
        (resource.RLIMIT_FSIZE, 0, 0),
        (resource.RLIMIT_CORE, 0, 0),
    ):
        _, hard = resource.getrlimit(kind)
        most = value + grace if hard == resource.RLIM_INFINITY else min(value + grace, hard)
        resource.setrlimit(kind, (min(value, most), most))


def _check(reading: Reading, limits: Limits) -> None:
    characters = sum(len(section.text) for section in reading.sections)
    if characters > limits.characters:
        raise too_much_text(characters, limits)
    if not is_readable("".join(section.text for section in reading.sections)):
        raise UnreadableFile(
            "no_text",
            "There is no readable text in this file; if it is a scan, run text recognition (OCR) on it first.",
        )


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    main()
