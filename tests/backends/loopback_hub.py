"""A model hub on 127.0.0.1 that speaks the few calls Hugging Face and ModelScope answer when a model is fetched."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

COMMIT = "1234567890abcdef1234567890abcdef12345678"


class LoopbackHub:
    """`repos` maps "org/name" to its files; `paths` lists what was asked; `status` answers everything with that."""

    def __init__(self, repos: dict[str, dict[str, bytes]]) -> None:
        self.repos, self.status = repos, 200
        self.paths: list[str] = []
        self.url = ""

    def taken(self) -> set[str]:
        """The files whose bytes were fetched."""
        return {path.rsplit("/", 1)[-1] for path in self.paths if path.startswith("GET-FILE ")}


@contextmanager
def loopback_hub(repos: dict[str, dict[str, bytes]]) -> Iterator[LoopbackHub]:
    hub = LoopbackHub(repos)

    class Handler(_Handler):
        state = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    state: LoopbackHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        parts = url.path.strip("/").split("/")
        self.state.paths.append(f"{self.command} {self.path}")
        if self.state.status != 200:
            self.reply(b"{}", self.state.status)
        elif parts[:2] == ["api", "models"] and len(parts) >= 4:
            self.hugging_face_api("/".join(parts[2:4]), parts[4:])
        elif "resolve" in parts[2:3]:
            self.file("/".join(parts[:2]), "/".join(parts[4:]))
        elif parts[:3] == ["api", "v1", "models"] and len(parts) >= 5:
            self.modelscope_api("/".join(parts[3:5]), parts[5:], parse_qs(url.query))
        else:
            self.reply(b"{}")

    def hugging_face_api(self, repo: str, rest: list[str]) -> None:
        files = self.state.repos.get(repo)
        if files is None:
            self.reply(b'{"error": "Repository not found"}', 404, {"X-Error-Code": "RepoNotFound"})
        elif rest[:1] == ["tree"]:
            listing = [{"type": "file", "path": n, "size": len(d), "oid": _sha(d)[:40]} for n, d in files.items()]
            self.reply(json.dumps(listing).encode())
        else:
            siblings = [{"rfilename": name, "size": len(data)} for name, data in files.items()]
            self.reply(json.dumps({"id": repo, "modelId": repo, "sha": COMMIT, "siblings": siblings}).encode())

    def modelscope_api(self, repo: str, rest: list[str], query: dict[str, list[str]]) -> None:
        files = self.state.repos.get(repo)
        if files is None:
            self.reply(b'{"Code": 10010205001, "Message": "not found", "Success": false}', 404)
        elif rest == ["repo", "files"]:
            listing = [{"Path": n, "Size": len(d), "Sha256": _sha(d), "Type": "blob"} for n, d in files.items()]
            self.reply(json.dumps({"Code": 200, "Success": True, "Data": {"Files": listing}}).encode())
        elif rest == ["repo"]:
            self.file(repo, query["FilePath"][0])
        else:
            self.reply(b'{"Code": 200, "Success": true, "Data": {}}')

    def file(self, repo: str, name: str) -> None:
        data = self.state.repos.get(repo, {}).get(name)
        if data is None:
            self.reply(b"{}", 404, {"X-Error-Code": "EntryNotFound"})
            return
        if self.command == "GET":
            self.state.paths.append(f"GET-FILE {repo}/{name}")
        self.reply(data, 200, {"ETag": f'"{_sha(data)[:40]}"', "X-Repo-Commit": COMMIT})

    def reply(self, data: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
