"""What `python app.py` does with documents besides serving them: export, import, evaluate. Reads no argv itself.

Each command adds its arguments to a parser and gives back the work, which returns the line to print.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from backends.errors import InvalidRequest


@dataclass(frozen=True)
class Documents:
    """Where the documents are, and which embedding model is asked for ("" for the bundled one)."""

    data_dir: Path
    database_url: str
    embedding_model: str


Work = Callable[[Namespace, Documents], str]


def export_command(parser: ArgumentParser) -> Work:
    """`export NAME FILE`: a knowledge base as one archive."""
    parser.add_argument("name")
    parser.add_argument("file", type=Path)

    def work(given: Namespace, at: Documents) -> str:
        from rag.stores import open_store
        from rag.transfer import export_base

        with closing(open_store(at.data_dir, at.database_url)) as store:
            done = export_base(store, at.data_dir, given.name, given.file.absolute())
        return f"Exported “{done.name}”: {done.files} files, {done.passages} passages, to {given.file}"

    return work


def import_command(parser: ArgumentParser) -> Work:
    """`import FILE [--name NAME]`: what `export` has written, into this store."""
    parser.add_argument("file", type=Path)
    parser.add_argument("--name", default="")

    def work(given: Namespace, at: Documents) -> str:
        from rag.model_name import BUNDLED
        from rag.stores import open_store
        from rag.transfer import import_base

        with closing(open_store(at.data_dir, at.database_url)) as store:
            done = import_base(store, at.data_dir, given.file.absolute(), given.name, at.embedding_model or BUNDLED)
        later = f"; {done.waiting} files are read by the next start" if done.waiting else ""
        return f"Imported “{done.name}”: {done.files} files, {done.passages} passages{later}"

    return work


def evaluate_command(parser: ArgumentParser) -> Work:
    """`evaluate QUESTIONS --knowledge-base NAME [--plot FILE]`: how well its answers are found."""
    parser.add_argument("questions", type=Path)
    parser.add_argument("--knowledge-base", required=True, metavar="NAME")
    parser.add_argument("--plot", type=Path, metavar="FILE")

    def work(given: Namespace, at: Documents) -> str:
        from rag.embedding_models import EmbeddingModels
        from rag.embeddings import WorkerEmbeddings
        from rag.evaluate import evaluate, plot, read_questions
        from rag.model_name import model_name
        from rag.retriever import Retriever
        from rag.stores import open_store

        questions = read_questions(given.questions)
        with closing(open_store(at.data_dir, at.database_url)) as store:
            store.files(given.knowledge_base)  # an unknown base is told before the model is loaded
            made_with = store.embedding_model()
            if at.embedding_model and made_with not in (None, model_name(at.embedding_model)):
                raise InvalidRequest(
                    f"These documents were embedded with {made_with}: leave out --embedding-model, or let the service "
                    "change to that one first."
                )
            with closing(EmbeddingModels(store, WorkerEmbeddings)) as models:
                retriever = Retriever(store, models)
                result = evaluate(lambda text, k: retriever.search(given.knowledge_base, text, k), questions)
        if given.plot:
            plot(result, given.plot)
        return result.report()

    return work


COMMANDS: Mapping[str, Callable[[ArgumentParser], Work]] = {
    "export": export_command,
    "import": import_command,
    "evaluate": evaluate_command,
}
