"""The flags and their variables, and what is said of wrong ones."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from rag.types import Tuning
from settings import VERSION, Settings, read_settings
from tests.running_server import ROOT


def settings(*flags: str, **variables: str) -> Settings:
    return read_settings(flags, variables)


def test_a_flag_wins_over_its_variable_and_a_variable_over_the_default() -> None:
    assert settings().port == 8000
    assert settings(QUARTET_PORT="9000").port == 9000
    assert settings("--port", "9001", QUARTET_PORT="9000").port == 9001


def test_every_flag_is_also_a_variable() -> None:
    by_variable = settings(
        QUARTET_HOST="127.0.0.2",
        QUARTET_TOKEN="sesame",
        QUARTET_DATA_DIR="/tmp/somewhere",
        QUARTET_MODEL_PATH="Qwen/Qwen3-0.6B",
        QUARTET_MODEL_TYPE="qwen",
        QUARTET_BACKEND="vllm",
        QUARTET_ENGINE_ARGS="--max-model-len 4096",
        QUARTET_PRECISION="bfloat16",
        QUARTET_EMBEDDING_MODEL="/models/bge",
        QUARTET_RERANKER_MODEL="/models/cross",
        QUARTET_THRESHOLD="0.5",
        QUARTET_PASSAGE_SIZE="400",
        QUARTET_DATABASE_URL="postgresql+psycopg://db/quartet",
    )
    assert by_variable.engine_args == ("--max-model-len", "4096")
    assert (by_variable.host, by_variable.backend, by_variable.precision) == ("127.0.0.2", "vllm", "bfloat16")
    assert (by_variable.model_path, by_variable.model_type) == ("Qwen/Qwen3-0.6B", "qwen")
    assert by_variable.reranker_model == "/models/cross"
    assert by_variable.tuning == Tuning(threshold=0.5, passage_size=400)
    assert by_variable.data_dir == Path("/tmp/somewhere")


def test_engine_arguments_may_begin_with_dashes() -> None:
    assert settings("--engine-args=--enforce-eager").engine_args == ("--enforce-eager",)
    assert settings("--engine-args", "--max-num-seqs 4 --seed '1'").engine_args == (
        "--max-num-seqs",
        "4",
        "--seed",
        "1",
    )


def test_an_engine_url_chooses_the_backend() -> None:
    assert settings("--engine-url", "http://gpu:8001/v1").backend == "openai"


def test_secrets_are_not_in_the_text_form_of_the_settings() -> None:
    secrets = {"QUARTET_ENGINE_KEY": "sesame", "QUARTET_DATABASE_URL": "postgresql://me:sesame@db/quartet"}
    assert "sesame" not in repr(settings("--token", "sesame", **secrets))


def test_the_version_is_that_of_the_project() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == VERSION


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--port", "http"), "--port"),
        (("--port", "70000"), "65535"),
        (("--backend", "tensorflow"), "--backend"),
        (("--backend", "openai"), "--engine-url"),
        (("--backend", "vllm"), "--model-path"),
        (("--backend", "vllm", "--model-path", "x", "--engine-url", "http://x"), "--engine-url"),
        (("--engine-url", "gpu-box:8001"), "http://"),
        (("--engine-url", "http://gpu-1:8001,gpu-2:8001"), "http://"),
        (("--engine-args", "'open"), "quotation mark"),
        (("--precision", "int3"), "--precision"),
        (("--idle-timeout", "soon"), "seconds, 0 or more"),
        (("--token-timeout", "0"), "more than 0"),
        (("--threshold", "35"), "from 0 to 1"),
        (("--passage-size", "50"), "from 100 to 10000"),
        (("--database-url", "mysql://db/quartet"), "SQLite"),
        (("--modelpath", "x"), "--modelpath"),
    ],
)
def test_a_wrong_value_is_one_sentence(flags: tuple[str, ...], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        settings(*flags)
    said = capsys.readouterr().err
    assert said.startswith("Quartet: ")
    assert said.count("\n") == 1
    assert named in said
