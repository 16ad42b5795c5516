"""Quartet's one door: flags and environment -> settings -> services -> one ASGI app -> uvicorn.

The only reader of the command line and the environment. Heavy modules are imported after the page is up.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import logging
import os
import secrets
import shlex
import shutil
import socket
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

if TYPE_CHECKING:
    from fastapi import FastAPI

VERSION = "0.1.0"
BACKENDS = ("auto", "vllm", "transformers", "openai", "quote")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
LOG_FORMATS = ("text", "json")
COMMANDS = ("export", "import", "evaluate")  # rag/commands.py does them
DATABASES = ("postgresql+psycopg://", "postgresql://", "postgres://")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
EXAMPLES = """examples:
  python app.py                                        the page at http://127.0.0.1:8000, no model needed
  python app.py --model-path Qwen/Qwen3-0.6B           a model of a hub
  python app.py --model-path ~/models/Llama-2-7b-chat  a folder of this machine
  python app.py --engine-url http://gpu-box:8001/v1    a model that is served elsewhere (OpenAI protocol)
  python app.py evaluate QUESTIONS.json --knowledge-base NAME      recall of a knowledge base on questions of yours
  python app.py export NAME FILE.zip                   a knowledge base as one file; import FILE.zip brings it back
  QUARTET_TOKEN=... python app.py --host 0.0.0.0       for the network, with a token of yours

Every flag is also an environment variable: QUARTET_PORT for --port, and so on; a flag wins over its variable.
Secrets belong into variables, where a process list does not show them: QUARTET_TOKEN, QUARTET_DATABASE_URL where a
password is in it, and QUARTET_ENGINE_KEY for the key of --engine-url. QUARTET_VLLM_PYTHON names the Python of a
virtual environment that has vLLM in it."""


class CannotStart(Exception):
    """Quartet cannot start; the message is one sentence for the operator."""


@dataclass(frozen=True)
class Settings:
    """All that the operator decided. Secrets are left out of its repr."""

    host: str
    port: int
    token: str = field(repr=False)
    data_dir: Path
    database_url: str = field(repr=False)  # a password may be in it
    model_path: str
    model_type: str
    backend: str
    engine_url: str
    engine_key: str = field(repr=False)
    engine_args: tuple[str, ...]
    precision: str
    max_in_flight: int
    max_waiting: int
    idle_timeout: float
    vllm_python: str
    embedding_model: str
    log_format: str

    @property
    def public(self) -> bool:
        """Whether other machines can reach this service."""
        return self.host not in LOOPBACK

    @property
    def url(self) -> str:
        """Where a browser on this machine finds the page."""
        name = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "::1": "[::1]"}.get(self.host, self.host)  # noqa: S104
        return f"http://{name}:{self.port}"


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage in front of it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"Quartet: {message}; see python app.py --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python app.py",
        description="Quartet: a chat page and an API for open language models and for your own documents.",
        epilog=EXAMPLES,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=30, width=110),
        add_help=False,
        allow_abbrev=False,
    )
    door = parser.add_argument_group("the service")
    door.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for all (default: 127.0.0.1)")
    door.add_argument("--port", type=_port, default=8000, help="port to listen on (default: 8000)")
    door.add_argument("--token", default="", help="who has it may do everything; made and shown once at the start if --host is not loopback and none is given")  # fmt: skip  # noqa: E501
    door.add_argument("--data-dir", default="./data", metavar="DIR", help="where documents and caches are kept (default: ./data)")  # fmt: skip  # noqa: E501
    door.add_argument("--database-url", default="", metavar="URL", help="PostgreSQL with pgvector for the documents, to share among several Quartets: postgresql+psycopg://USER@HOST/NAME (default: SQLite inside --data-dir)")  # fmt: skip  # noqa: E501
    model = parser.add_argument_group("the language model")
    model.add_argument("--model-path", default="", metavar="PATH", help="folder of a model, or its id on Hugging Face or (modelscope:ID) ModelScope; none: answers quote your documents")  # fmt: skip  # noqa: E501
    model.add_argument("--model-type", default="", metavar="TYPE", help="family of the model if it is not recognised: qwen, llama, chatglm, baichuan")  # fmt: skip  # noqa: E501
    model.add_argument("--backend", choices=BACKENDS, default="auto", metavar="NAME", help=f"engine that runs it: {', '.join(BACKENDS)} (default: auto)")  # fmt: skip  # noqa: E501
    model.add_argument("--engine-url", default="", metavar="URL", help="an OpenAI-compatible server that has the model (--model-path is its name there); several with commas between: the least busy one is asked, a dead one left out")  # fmt: skip  # noqa: E501
    model.add_argument("--engine-args", type=_arguments, default=(), metavar="ARGS", help="further arguments for the engine, in one text: --engine-args='--max-model-len 4096'")  # fmt: skip  # noqa: E501
    model.add_argument("--precision", choices=PRECISIONS, default="auto", metavar="TYPE", help=f"number type of the weights: {', '.join(PRECISIONS)} (default: auto)")  # fmt: skip  # noqa: E501
    model.add_argument("--max-in-flight", type=_count, default=128, metavar="N", help="answers given at once (default: 128)")  # fmt: skip  # noqa: E501
    model.add_argument("--max-waiting", type=_count, default=256, metavar="N", help="questions in line behind them; more are told to come back later (default: 256)")  # fmt: skip  # noqa: E501
    model.add_argument("--idle-timeout", type=_seconds, default=0.0, metavar="SECONDS", help="after so long without a question the model gives its memory back, until the next one; 0: never (default: 0)")  # fmt: skip  # noqa: E501
    documents = parser.add_argument_group("the documents")
    documents.add_argument("--embedding-model", default="", metavar="PATH", help="folder or hub id of a sentence-transformers model (default: a small English one that is built in)")  # fmt: skip  # noqa: E501
    other = parser.add_argument_group("other")
    other.add_argument("--log-format", choices=LOG_FORMATS, default="text", metavar="FORM", help="text, or json: one object a line, one for each request too (default: text)")  # fmt: skip  # noqa: E501
    other.add_argument("--version", action="version", version=f"Quartet {VERSION}")
    other.add_argument("--help", "-h", action="help", help="show this and end")
    return parser


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"a port is a number from 0 (any free one) to 65535, not '{text}'")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= 100_000:
        raise argparse.ArgumentTypeError(f"a whole number from 1 to 100000, not '{text}'")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e9:
        raise argparse.ArgumentTypeError(f"seconds, 0 or more, not '{text}'")
    return seconds


def _arguments(text: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"a quotation mark is not closed in: {text}") from None


def read_settings(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Settings from flags and QUARTET_... variables. Exits with code 2 and one sentence when a value is wrong."""
    parser = _parser()
    flags = [action.option_strings[0] for action in parser._actions if action.nargs != 0]
    variables = {flag: environment.get("QUARTET_" + flag[2:].replace("-", "_").upper(), "") for flag in flags}
    given = parser.parse_args([*(f"{flag}={value}" for flag, value in variables.items() if value), *arguments])
    if given.database_url and not given.database_url.startswith(DATABASES):
        parser.error("argument --database-url: it starts with postgresql+psycopg://; leave it out for SQLite")
    if given.engine_url and not all(
        url.strip().startswith(("http://", "https://")) for url in given.engine_url.split(",")
    ):
        parser.error("argument --engine-url: it starts with http:// or https://")
    if given.backend == "openai" and not given.engine_url:
        parser.error("argument --backend: openai needs the address of a server, in --engine-url")
    if given.engine_url and given.backend not in ("auto", "openai"):
        parser.error(f"argument --backend: {given.backend} does not go with --engine-url, leave one of them out")
    if given.backend in ("vllm", "transformers") and not given.model_path:
        parser.error(f"argument --backend: {given.backend} needs a model, in --model-path")
    if given.backend == "quote" and given.model_path:
        parser.error("argument --backend: quote needs no model, leave out --model-path or --backend")
    return Settings(
        host=given.host,
        port=given.port,
        token=given.token,
        data_dir=Path(given.data_dir).expanduser().resolve(),
        database_url=given.database_url,
        model_path=given.model_path,
        model_type=given.model_type,
        backend="openai" if given.engine_url else given.backend,
        engine_url=given.engine_url,
        engine_key=environment.get("QUARTET_ENGINE_KEY", ""),
        engine_args=given.engine_args,
        precision=given.precision,
        max_in_flight=given.max_in_flight,
        max_waiting=given.max_waiting,
        idle_timeout=given.idle_timeout,
        vllm_python=environment.get("QUARTET_VLLM_PYTHON", ""),
        embedding_model=given.embedding_model,
        log_format=given.log_format,
    )


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
    import uvloop

    from api.metrics import MeteredChat, MeteredKnowledge, Metrics
    from api.server import ApiSettings, create_app
    from api.serving import Server
    from backends.errors import QuartetError
    from backends.models import EngineSettings, ModelManager, ModelSpec
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
        vllm_python=settings.vllm_python,
    )
    models = ModelManager(engines)
    metrics = Metrics()
    knowledge = MeteredKnowledge(
        metrics, settings.data_dir, settings.embedding_model, database_url=settings.database_url
    )
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
        server.should_exit = bool(trouble)

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

    def listening() -> None:
        print(f"Quartet is ready at {settings.url}  (Ctrl-C ends it)", flush=True)

    def draining(answers: int) -> None:
        print(f"Ending after {answers} answers under way; Ctrl-C again ends at once.", flush=True)

    incoming = settings.data_dir / "incoming"
    shutil.rmtree(incoming, ignore_errors=True)  # what a killed process left there
    incoming.mkdir(mode=0o700)
    app = create_app(models, knowledge, chat, ApiSettings(VERSION, incoming, settings.token), opened, metrics, lifespan)
    mount_page(app, models, knowledge, chat, PageSettings(settings.data_dir))
    server = Server(app, listening, lambda: models.status.in_flight + models.status.waiting, draining)
    uvloop.run(server.serve([listener]))
    if trouble:
        raise CannotStart(trouble[0])


def log(form: str) -> None:
    """Log to stderr; as JSON with a line for each request."""
    from api.request_log import JsonLines

    handler = logging.StreamHandler()
    text = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JsonLines() if form == "json" else text)
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("quartet").setLevel(logging.INFO)
    logging.getLogger("quartet.access").setLevel(logging.INFO if form == "json" else logging.WARNING)


def command(name: str, arguments: Sequence[str]) -> None:
    """One of COMMANDS, while no Quartet has the data folder. Raises CannotStart."""
    quiet_libraries(os.environ)
    from backends.errors import QuartetError
    from rag import commands

    parser = _Parser(prog=f"python app.py {name}", allow_abbrev=False)
    work = commands.COMMANDS[name](parser)
    given, flags = parser.parse_known_args(arguments)
    settings = read_settings(flags, os.environ)
    with claim(settings.data_dir):
        try:
            print(work(given, commands.Documents(settings.data_dir, settings.database_url, settings.embedding_model)))
        except QuartetError as error:
            raise CannotStart(error.message) from error
        except OSError as error:
            raise CannotStart(f"{error.filename or 'The disk'} cannot be used: {error.strerror}.") from error


def main(arguments: Sequence[str]) -> int:
    """Run Quartet, or the command that is named first; the result is the exit code."""
    os.umask(0o077)  # documents are private
    try:
        if arguments and arguments[0] in COMMANDS:
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
