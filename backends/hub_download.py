"""The child process that fetches a model from a hub: `python -m backends.hub_download [modelscope:]org/name`.

Takes weights, configuration and tokenizer, never code. Prints its progress and its result as backends/job.py says.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import httpx

from backends.errors import HubUnreachable, ModelUnusable, QuartetError

_BESIDE_WEIGHTS = ["*.json", "*.jinja", "*.model", "*.tiktoken", "tokenizer*", "vocab*", "merges.txt", "LICENSE*"]
_NEVER = ["*.py", "*.pth", "*.pt", "*.gguf", "*.onnx", "*.msgpack", "*.h5", "*.md", "*/*", "original/*"]
_PATIENCE = httpx.Timeout(8.0, connect=5.0)


def wanted_files(names: Sequence[str]) -> list[str]:
    """Patterns of what to fetch of these: safetensors weights if there are any, else *.bin, and what goes with them."""
    weights = "*.safetensors" if any(name.endswith(".safetensors") and "/" not in name for name in names) else "*.bin"
    return [weights, *_BESIDE_WEIGHTS]


def say(**event: object) -> None:
    print(json.dumps(event, ensure_ascii=False), flush=True)


class Counter:
    """Bytes fetched by all threads together, told at most five times a second."""

    def __init__(self, note: str) -> None:
        self._note, self._lock = note, threading.Lock()
        self._done = self._total = 0
        self._told = 0.0

    def expect(self, total: int) -> None:
        self._total = total
        say(stage="downloading", done=0, total=total, note=self._note)

    def add(self, size: int) -> None:
        with self._lock:
            self._done += size
            if (now := time.monotonic()) - self._told >= 0.2:
                self._told = now
                say(
                    stage="downloading",
                    done=min(self._done, self._total or self._done),
                    total=self._total,
                    note=self._note,
                )


def _first_call(url: str, headers: dict[str, str]) -> httpx.Response:
    """GET; raises httpx.TransportError within seconds, even where the name service itself does not answer."""
    with httpx.Client(timeout=_PATIENCE, follow_redirects=True) as client:
        try:
            return ThreadPoolExecutor(1).submit(client.get, url, headers=headers).result(_PATIENCE.read)
        except TimeoutError as error:
            raise httpx.ConnectTimeout("no answer") from error


def _broke_off(repo: str, hub: str) -> HubUnreachable:
    return HubUnreachable(f"Fetching {repo} from {hub} broke off; try again to go on from there.")


# -- Hugging Face ---------------------------------------------------------------------------------------------------


def cached_from_hugging_face(repo: str) -> str | None:
    """The folder of an earlier, complete fetch."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    for weights in ("*.safetensors", "*.bin"):
        try:
            folder = snapshot_download(
                repo, allow_patterns=[weights, *_BESIDE_WEIGHTS], ignore_patterns=_NEVER, local_files_only=True
            )
        except (LocalEntryNotFoundError, OSError, ValueError):
            continue
        if any(Path(folder).glob(weights)):
            return folder
    return None


def from_hugging_face(repo: str) -> str:
    """Raises httpx.TransportError when the hub cannot be reached, else ModelUnusable or HubUnreachable."""
    from huggingface_hub import constants, get_token, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    token = get_token()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    answer = _first_call(f"{constants.ENDPOINT}/api/models/{repo}?blobs=true", headers)
    _check(answer, repo, "Hugging Face", "HF_TOKEN")
    sizes = {entry["rfilename"]: int(entry.get("size") or 0) for entry in answer.json().get("siblings") or []}
    patterns = wanted_files(list(sizes))
    counter = Counter(repo)
    counter.expect(_total(sizes, patterns))
    try:
        return snapshot_download(
            repo, allow_patterns=patterns, ignore_patterns=_NEVER, tqdm_class=_bar_for(counter), max_workers=4
        )
    except (httpx.HTTPError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise _broke_off(repo, "Hugging Face") from error


def _total(sizes: dict[str, int], patterns: list[str]) -> int:
    def matches(name: str, any_of: Sequence[str]) -> bool:
        return any(fnmatch(name, pattern) for pattern in any_of)

    return sum(size for name, size in sizes.items() if matches(name, patterns) and not matches(name, _NEVER))


def _bar_for(counter: Counter) -> Any:
    """A progress bar class that draws nothing and counts the bytes that reach the disk."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    class Bar(tqdm):  # type: ignore[misc]  # untyped
        def __init__(self, *arguments: Any, **options: Any) -> None:
            # The library runs a second bar for bytes on the wire and a third one for files.
            self.counts = str(options.get("desc", "")).startswith("Reconstructing")
            options.pop("name", None)
            super().__init__(*arguments, **{**options, "disable": True})

        def update(self, n: float | None = 1) -> bool | None:
            if self.counts and n:
                counter.add(int(n))
            return None

    return Bar


def _check(answer: httpx.Response, repo: str, hub: str, token_variable: str) -> None:
    if answer.status_code == httpx.codes.OK:
        return
    if answer.status_code in (401, 403, 404):
        raise _not_there(repo, hub, token_variable)
    raise HubUnreachable(f"{hub} answered with HTTP status {answer.status_code} for {repo}; try again later.")


def _not_there(repo: str, hub: str, token_variable: str) -> ModelUnusable:
    return ModelUnusable(
        f"{hub} has no model {repo} that may be read without an account: check the spelling, or accept its licence "
        f"there and set {token_variable}; a folder with the model works too."
    )


# -- ModelScope -----------------------------------------------------------------------------------------------------

# Written into the folder once everything is there: the library itself cannot tell a part from the whole.
_COMPLETE = ".quartet-complete"


def cached_from_modelscope(repo: str) -> str | None:
    """The folder of an earlier, complete fetch."""
    from modelscope_hub import HubApi
    from modelscope_hub.errors import HubError

    try:
        folder = HubApi().download_repo(repo, "model", local_files_only=True)
    except HubError:
        return None
    return str(folder) if (folder / _COMPLETE).is_file() else None


def from_modelscope(repo: str) -> str:
    """Raises httpx.TransportError when the hub cannot be reached, else ModelUnusable or HubUnreachable."""
    from modelscope_hub import HubApi, HubConfig
    from modelscope_hub.errors import AuthenticationError, HubError, NotExistError, PermissionDeniedError

    _first_call(str(HubConfig().endpoint), {})
    api = HubApi()
    try:
        sizes = {info.path: int(info.size or 0) for info in api.list_repo_files(repo, "model")}
        patterns = wanted_files(list(sizes))
        counter = Counter(repo)
        counter.expect(_total(sizes, patterns))
        folder = api.download_repo(
            repo,
            "model",
            allow_patterns=patterns,
            ignore_patterns=_NEVER,
            progress_callbacks=[_callback_for(counter)],
        )
    except (AuthenticationError, PermissionDeniedError, NotExistError) as error:
        raise _not_there(repo, "ModelScope", "MODELSCOPE_API_TOKEN") from error
    except HubError as error:
        raise _broke_off(repo, "ModelScope") from error
    (folder / _COMPLETE).touch()
    return str(folder)


def _callback_for(counter: Counter) -> Any:
    from modelscope_hub import ProgressCallback

    class Callback(ProgressCallback):  # type: ignore[misc]
        def update(self, size: int) -> None:
            counter.add(size)

    return Callback


# -- both -----------------------------------------------------------------------------------------------------------


def fetch(asked: str) -> str:
    """The folder with the model. An earlier fetch is used as it is, without any network."""
    from backends.catalog import modelscope_id

    only_modelscope, repo = asked.startswith("modelscope:"), asked.removeprefix("modelscope:")
    twin = repo if only_modelscope else modelscope_id(repo)
    if not only_modelscope and (folder := cached_from_hugging_face(repo)):
        return folder
    if folder := cached_from_modelscope(twin):
        return folder
    hubs: list[Callable[[], str]] = [] if only_modelscope else [lambda: from_hugging_face(repo)]
    hubs.append(lambda: from_modelscope(twin))
    for fetch_from in hubs:
        try:
            return fetch_from()
        except httpx.TransportError:
            continue
    silent = "neither Hugging Face nor ModelScope answered" if len(hubs) > 1 else "ModelScope did not answer"
    raise HubUnreachable(
        f"{repo} was asked for, but {silent}: check the network, or give a local folder that holds the model."
    )


def main(arguments: Sequence[str]) -> int:
    try:
        say(result=fetch(arguments[0]))
    except QuartetError as error:
        say(error=error.message, code=error.code)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        say(
            error=f"The disk is full, so {arguments[0]} could not be fetched: make room and try again.",
            code="storage_full",
        )
    else:
        return 0
    return 1


if __name__ == "__main__":
    # Threads of the library may still wait for a network that does not answer.
    code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)
