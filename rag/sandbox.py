"""Runs a reader in a process of its own that can be killed, and takes in what it says as untrusted data."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from rag.errors import REASONS, UnreadableFile
from rag.readers import Limits, Progress, Reading, Section

_log = logging.getLogger(__name__)

_LOOK_EVERY = 0.5  # seconds
_CHUNK = 1 << 16  # bytes, what a pipe holds
_ROOT = Path(__file__).resolve().parents[1]


def read_confined(reader: str, path: Path, limits: Limits, progress: Progress) -> Reading:
    """What `rag.readers.<reader>` finds in the file at `path`. Blocks for `limits.wall_seconds` at most, then the
    process is killed. `progress` is told how far it is, and twice a second also where it is not further: what it raises
    ends the process. Raises UnreadableFile."""
    order = {"reader": reader, "path": str(path.resolve()), "limits": dataclasses.asdict(limits)}
    # Whatever else the app was told through its settings is no business of a process that reads hostile files.
    env = {name: value for name, value in os.environ.items() if not name.startswith("QUARTET_")}
    child = subprocess.Popen(
        [sys.executable, "-m", "rag.readers"],
        cwd=_ROOT,
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        start_new_session=True,  # Ctrl-C is for the app to handle
    )
    assert child.stdin is not None  # noqa: S101 - made with pipes
    assert child.stdout is not None  # noqa: S101
    timed_out = threading.Event()

    def end() -> None:
        timed_out.set()
        child.kill()

    timer = threading.Timer(limits.wall_seconds, end)
    timer.daemon = True
    timer.start()
    try:
        with child.stdin, child.stdout:
            # stdin stays open: its end is how the child learns that this process is gone.
            child.stdin.write(json.dumps(order).encode() + b"\n")
            child.stdin.flush()
            reading = _take_in(child.stdout, path, limits, progress)
    except (BrokenPipeError, ValueError, KeyError, TypeError):
        reading = None
    finally:
        timer.cancel()
        child.kill()
        code = child.wait()
    if reading is not None:
        return reading
    if timed_out.is_set() or code == -signal.SIGXCPU:
        raise UnreadableFile(
            "too_slow",
            f"Reading this file took longer than {limits.wall_seconds:.0f} seconds: split it and upload the parts.",
        )
    raise UnreadableFile(
        "damaged",
        "This file makes its reader fail: open it in the program it was made with, save it anew and upload it again.",
    )


def _take_in(stream: IO[bytes], path: Path, limits: Limits, progress: Progress) -> Reading | None:
    """The reading that ends with a note; None where the stream ends without one."""
    sections: list[Section] = []
    done = total = 0
    for message in _messages(stream, limits):
        if message is None:
            progress(done, total)
        elif "progress" in message:
            done, total = map(int, message["progress"])
            progress(done, total)
        elif "text" in message:
            page = message["page"]
            sections.append(Section(str(message["text"]), None if page is None else int(page), str(message["heading"])))
        elif message.get("reason") in REASONS:
            raise UnreadableFile(message["reason"], str(message["message"])[:500])
        elif "failure" in message:
            if path.exists():  # one that was deleted while it was read is nobody's failure
                _log.warning("a reader failed: %s", str(message["failure"])[:4_000])
        elif "note" in message:
            return Reading(sections, str(message["note"]))
    return None


def _messages(stream: IO[bytes], limits: Limits) -> Iterator[dict[str, Any] | None]:
    """The lines of the unbuffered `stream`; again and again None while there is none."""
    # A character is at most 4 bytes; a reader that was taken over gets no more of our memory than that.
    left = 4 * limits.characters + 10_000_000
    begun = bytearray()
    waiting = select.poll()  # not select(), which knows no descriptor over 1,023
    waiting.register(stream, select.POLLIN)
    while left > 0:
        if not waiting.poll(1000 * _LOOK_EVERY):
            yield None
            continue
        if not (some := stream.read(min(left, _CHUNK))):
            return
        left -= len(some)
        *lines, rest = some.split(b"\n")
        for line in lines:
            yield json.loads(begun + line)
            begun.clear()
        begun += rest
