"""Quartet's one door: flags and environment -> settings -> services -> one ASGI app -> uvicorn.

The only reader of the command line and the environment. Heavy modules are imported after the page is up.
"""

from __future__ import annotations

import asyncio
import fcntl
import gc
import logging
import os
import secrets
import shutil
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from settings import VERSION, Parser, Settings, read_settings

if TYPE_CHECKING:
    from fastapi import FastAPI

COMMANDS = ("export", "import", "evaluate")  # rag/commands.py does them


class CannotStart(Exception):
    """Quartet cannot start; the message is one sentence for the operator."""


def open_port(host: str, port: int) -> socket.socket:
    """A socket bound to the address, before anything slow is done. Raises CannotStart."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        # Only a socket that says TCP gets TCP_NODELAY from asyncio, without which a stream stalls 40 ms at its start.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # Listening from now on means that a second Quartet is told at once; whoever comes early waits a moment.
        listener.listen(2048)
    except PermissionError:
        raise CannotStart(f"Port {port} needs rights that this user does not have: choose one above 1023.") from None
    except socket.gaierror:
        raise CannotStart(f"'{host}' is no address of this machine: choose another --host.") from None
    except OSError as error:
        if error.errno == 98:  # EADDRINUSE
            raise CannotStart(f"Port {port} is taken: end the program there or choose another --port.") from None
        raise CannotStart(f"Quartet cannot listen on {host} port {port}: {error.strerror}.") from None
    return listener


def claim(data_dir: Path) -> TextIO:
    """Make the data folder, writable and for this process alone; keep what is returned open. Raises CannotStart."""
    lock_path = data_dir / "quartet.lock"
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = lock_path.open("a+")
    except OSError as error:
        raise CannotStart(
            f"The data folder {data_dir} cannot be used: {error.strerror}; choose another --data-dir."
        ) from None
    try:
        # A lock of the process, not of the open file: a child that outlives a kill for a moment does not hold it.
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.seek(0)
        owner = lock.read(20).strip()
        lock.close()
        raise CannotStart(
            f"Another Quartet (process {owner or 'unknown'}) uses the data folder {data_dir}: "
            "end it or choose another --data-dir."
        ) from None
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


def quiet_libraries(environment: Any) -> None:
    """No library calls home, and none is steered by a stray variable. Before any of them is imported."""
    for name in [name for name in environment if name.startswith(("GRADIO_", "LANGCHAIN_", "LANGSMITH_"))]:
        del environment[name]
    environment.update(
        GRADIO_ANALYTICS_ENABLED="False", HF_HUB_DISABLE_TELEMETRY="1", DO_NOT_TRACK="1",
        ANONYMIZED_TELEMETRY="False", VLLM_NO_USAGE_STATS="1", LANGCHAIN_TRACING_V2="false",
        LANGSMITH_TRACING="false", TOKENIZERS_PARALLELISM="false",
    )  # fmt: skip


def serve(settings: Settings, listener: socket.socket) -> None:
    """Build the services and the one app, and answer requests until a signal ends it. Raises CannotStart."""
    gc.disable()  # until the libraries are imported: there is nothing to collect meanwhile
    import uvloop

    from accounts.accounts import Accounts
    from api.metrics import MeteredChat, MeteredKnowledge, Metrics
    from api.server import ApiSettings, create_app
    from api.serving import Server
    from backends.errors import QuartetError
    from backends.models import EngineSettings, ModelManager, ModelSpec
    from backends.types import Patience
    from webui.page import PageSettings, mount_page

    engines = EngineSettings(
        data_dir=settings.data_dir,
        engine_url=settings.engine_url,
        engine_key=settings.engine_key,
        engine_args=settings.engine_args,
        precision=settings.precision,
        max_in_flight=settings.max_in_flight,
        max_waiting=settings.max_waiting,
        idle_timeout=settings.idle_timeout,
        patience=Patience(settings.first_token_timeout, settings.token_timeout),
        vllm_python=settings.vllm_python,
        visible_gpus=settings.visible_gpus,
    )
    models = ModelManager(engines)
    accounts = Accounts(settings.data_dir, settings.database_url)
    metrics = Metrics()
    knowledge = MeteredKnowledge(
        metrics, settings.data_dir, settings.embedding_model, database_url=settings.database_url,
        reranker_model=settings.reranker_model, tuning=settings.tuning,
    )  # fmt: skip
    chat = MeteredChat(metrics, models, knowledge, lambda: models.status.context_length)
    opened = asyncio.Event()
    trouble: list[str] = []

    async def open_knowledge() -> None:
        """Takes about a second, most of it imports: the page does not wait for it, only what needs documents does."""
        try:
            await knowledge.start()
            opened.set()
        except QuartetError as error:
            trouble.append(error.message)
        except Exception:
            logging.getLogger("quartet").exception("the documents cannot be opened")
            trouble.append(f"The documents in {settings.data_dir} could not be opened; the lines above say why.")
        # The libraries' million objects stay for good: to look through them at each full collection would stop
        # every stream for a fifth of a second.
        gc.freeze()
        gc.enable()
        if trouble:  # a signal may have said so meanwhile
            server.should_exit = True

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if settings.model_path or settings.engine_url:
            models.start_loading(ModelSpec(settings.model_path, settings.model_type, settings.backend))
        opening = asyncio.create_task(open_knowledge())
        following = asyncio.create_task(metrics.follow(models))
        try:
            yield
        finally:
            following.cancel()
            try:
                await models.close()
            finally:
                await opening
                await knowledge.close()
                accounts.close()

    def listening() -> None:
        print(f"Quartet is ready at {settings.url}  (Ctrl-C ends it)", flush=True)

    def draining(answers: int) -> None:
        print(f"Ending after {answers} answers under way; Ctrl-C again ends at once.", flush=True)

    incoming = settings.data_dir / "incoming"
    shutil.rmtree(incoming, ignore_errors=True)  # what a killed process left there
    incoming.mkdir(mode=0o700)
    api = ApiSettings(VERSION, incoming, settings.token)
    app = create_app(accounts, models, knowledge, chat, api, opened, metrics, lifespan)
    page = PageSettings(settings.data_dir, token_needed=bool(settings.token))
    mount_page(app, models, knowledge, chat, accounts, page)
    server = Server(app, listening, lambda: models.status.in_flight + models.status.waiting, draining)
    uvloop.run(server.serve([listener]))
    if trouble:
        raise CannotStart(trouble[0])


def log(form: str) -> None:
    """Log to stderr; as JSON with a line for each request."""
    handler = logging.StreamHandler()
    if form == "json":
        from api.request_log import JsonLines

        handler.setFormatter(JsonLines())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("quartet").setLevel(logging.INFO)
    logging.getLogger("quartet.access").setLevel(logging.INFO if form == "json" else logging.WARNING)


def command(name: str, arguments: Sequence[str]) -> None:
    """One of COMMANDS, while no Quartet has the data folder. Raises CannotStart."""
    quiet_libraries(os.environ)
    from backends.errors import QuartetError
    from rag import commands

    parser = Parser(prog=f"python app.py {name}", allow_abbrev=False)
    work = commands.COMMANDS[name](parser)
    given, flags = parser.parse_known_args(arguments)
    settings = read_settings(flags, os.environ)
    with claim(settings.data_dir):
        try:
            at = commands.Documents(
                settings.data_dir, settings.database_url, settings.embedding_model, settings.reranker_model,
                settings.tuning.threshold,
            )  # fmt: skip
            print(work(given, at))
        except QuartetError as error:
            raise CannotStart(error.message) from error
        except OSError as error:
            raise CannotStart(f"{error.filename or 'The disk'} cannot be used: {error.strerror}.") from error


def users(arguments: Sequence[str]) -> None:
    """What accounts/commands.py does, also while a Quartet has the data folder. Raises CannotStart."""
    from accounts.commands import users_command
    from backends.errors import QuartetError

    parser = Parser(prog="python app.py users", allow_abbrev=False)
    work = users_command(parser)
    given, flags = parser.parse_known_args(arguments)
    settings = read_settings(flags, os.environ)
    try:
        print(work(given, settings.data_dir, settings.database_url))
    except QuartetError as error:
        raise CannotStart(error.message) from error
    except OSError as error:
        raise CannotStart(f"{error.filename or 'The disk'} cannot be used: {error.strerror}.") from error


def main(arguments: Sequence[str]) -> int:
    """Run Quartet, or the command that is named first; the result is the exit code."""
    os.umask(0o077)  # documents are private
    try:
        if arguments and arguments[0] == "users":
            users(arguments[1:])
        elif arguments and arguments[0] in COMMANDS:
            command(arguments[0], arguments[1:])
        else:
            run(arguments)
    except CannotStart as reason:
        print(f"Quartet: {reason}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # before the server took the signal over
        return 130
    return 0


def run(arguments: Sequence[str]) -> None:
    """The service, until a signal ends it. Raises CannotStart."""
    settings = read_settings(arguments, os.environ)
    log(settings.log_format)
    with open_port(settings.host, settings.port) as listener, claim(settings.data_dir):
        quiet_libraries(os.environ)
        token = settings.token
        if settings.public and not token:
            token = secrets.token_urlsafe(32)
            print(f"Token for this run (log in with it; set QUARTET_TOKEN to choose your own): {token}", flush=True)
        serve(replace(settings, token=token, port=listener.getsockname()[1]), listener)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
