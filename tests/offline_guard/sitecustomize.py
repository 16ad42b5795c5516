"""On the PYTHONPATH of a process under test it writes down every attempt, its children's too, to leave the machine.

Loaded by the interpreter itself at start, before any of our code. Loopback and UNIX sockets are free; anything else
is written to $OFFLINE_GUARD_LOG and refused.
"""

import os
import socket

_LOG = os.environ["OFFLINE_GUARD_LOG"]
_LOCAL_NAMES = {None, "", b"", "localhost", b"localhost", "0.0.0.0", "::", socket.gethostname()}


def _is_local(host: object) -> bool:
    return host in _LOCAL_NAMES or str(host).startswith("127.") or host == "::1"


def _refuse(what: str, host: object) -> None:
    with open(_LOG, "a", encoding="utf-8") as log:
        log.write(f"{what} {host!r} by {os.getpid()}\n")
    raise OSError(f"offline guard: {what} {host!r}")


def _guarded_connect(real):  # type: ignore[no-untyped-def]
    def connect(self: socket.socket, address: object) -> object:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_local(address[0]):  # type: ignore[index]
            _refuse("connect", address[0])  # type: ignore[index]
        return real(self, address)

    return connect


def _guarded_lookup(real):  # type: ignore[no-untyped-def]
    def getaddrinfo(host, *rest, **named):  # type: ignore[no-untyped-def]
        if not _is_local(host):
            _refuse("look-up", host)
        return real(host, *rest, **named)

    return getaddrinfo


socket.socket.connect = _guarded_connect(socket.socket.connect)  # type: ignore[method-assign]
socket.socket.connect_ex = _guarded_connect(socket.socket.connect_ex)  # type: ignore[method-assign]
socket.getaddrinfo = _guarded_lookup(socket.getaddrinfo)
