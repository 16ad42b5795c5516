"""What `python app.py` does with documents besides serving them: export, import, evaluate. Reads no argv itself.

Each command adds its arguments to a parser and gives back the work, which returns the line to print.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from backends.errors import InvalidRequest
from rag.owners import key_of, name_of

if TYPE_CHECKING:
    from rag.store import Store


@dataclass(frozen=True)
class Documents:
    """Where the documents are, which embedding model is asked for ("" for the bundled one) and which reranker ("" for
    none), and the threshold in use."""

    data_dir: Path
    database_url: str
    embedding_model: str
    reranker_model: str
    threshold: float


_BESIDE = Path("beside the questions")

Work = Callable[[Namespace, Documents], str]


def export_command(parser: ArgumentParser) -> Work:
    """`export NAME FILE [--owner USER]`: a knowledge base as one archive."""
    parser.add_argument("name")
    parser.add_argument("file", type=Path)
    _add_owner(parser)

    def work(given: Namespace, at: Documents) -> str:
        from rag.stores import open_store
        from rag.transfer import export_base

        with closing(open_store(at.data_dir, at.database_url)) as store:
            done = export_base(store, at.data_dir, _key(given, given.name), given.file.absolute())
        return f"Exported “{done.name}”: {done.files} files, {done.passages} passages, to {given.file}"

    return work


def import_command(parser: ArgumentParser) -> Work:
    """`import FILE [--name NAME] [--owner USER]`: what `export` has written, into this store."""
    parser.add_argument("file", type=Path)
    parser.add_argument("--name", default="")
    _add_owner(parser)

    def work(given: Namespace, at: Documents) -> str:
        from rag.model_name import BUNDLED
        from rag.stores import open_store
        from rag.transfer import import_base

        with closing(open_store(at.data_dir, at.database_url)) as store:
            model, owner = at.embedding_model or BUNDLED, given.owner.strip().casefold()
            done = import_base(store, at.data_dir, given.file.absolute(), given.name, model, owner)
        later = f"; {done.waiting} files are read by the next start" if done.waiting else ""
        return f"Imported “{done.name}”: {done.files} files, {done.passages} passages{later}"

    return work


def evaluate_command(parser: ArgumentParser) -> Work:
    """`evaluate QUESTIONS [--knowledge-base NAME] [--owner USER] [--plot [FILE]]`: how well its answers are found."""
    parser.add_argument("questions", type=Path)
    parser.add_argument("--knowledge-base", default="", metavar="NAME")
    _add_owner(parser)
    parser.add_argument("--plot", type=Path, nargs="?", const=_BESIDE, metavar="FILE")

    def work(given: Namespace, at: Documents) -> str:
        from rag.embedding_models import EmbeddingModels
        from rag.embeddings import WorkerEmbeddings
        from rag.evaluate import DEPTH, evaluate, read_questions
        from rag.model_name import model_name
        from rag.plot import plot
        from rag.reranker import Reranker
        from rag.retriever import Retriever
        from rag.stores import open_store

        questions = read_questions(given.questions)
        with closing(open_store(at.data_dir, at.database_url)) as store:
            base = _to_be_asked(
                store, _key(given, given.knowledge_base) if given.knowledge_base else ""
            )  # before the model is loaded
            made_with = store.embedding_model()
            if at.embedding_model and made_with not in (None, model_name(at.embedding_model)):
                raise InvalidRequest(
                    f"These documents were embedded with {made_with}: leave out --embedding-model, or let the service "
                    "change to that one first."
                )
            with ExitStack() as stack:
                models = stack.enter_context(closing(EmbeddingModels(store, WorkerEmbeddings)))
                reranker = None
                if at.reranker_model:
                    reranker = stack.enter_context(closing(Reranker(at.reranker_model)))
                retriever = Retriever(store, models, reranker)
                result = evaluate(lambda text, k: retriever.chosen(base, text, k), questions)
        if reranker and reranker.trouble:
            raise InvalidRequest(reranker.trouble)
        report = f"“{name_of(base)}”: {result.report(at.threshold)}"
        if given.plot:
            picture = given.questions.with_suffix(".png") if given.plot == _BESIDE else given.plot
            recalls = [result.recall(depth) for depth in range(1, DEPTH + 1)]
            plot(recalls, f"{len(result.places)} questions, MRR {result.mrr:.3f}", picture)
            report += f"\ndrawn in {picture}"
        return report

    return work


def _add_owner(parser: ArgumentParser) -> None:
    parser.add_argument("--owner", default="", metavar="USER")


def _key(given: Namespace, name: str) -> str:
    return key_of(given.owner.strip().casefold(), name)


def _to_be_asked(store: Store, key: str) -> str:
    """The knowledge base of this key, or the only one there is. Raises InvalidRequest when nothing can be found in
    it."""
    bases = store.bases()
    if not key and len(bases) != 1:
        names = ", ".join(f"“{base.name}”" for base in bases) or "there is none yet"
        raise InvalidRequest(f"Say with --knowledge-base which one is asked: {names}.")
    base = key or key_of(bases[0].owner, bases[0].name)
    if not any(record.state == "searchable" for record in store.files(base)):
        raise InvalidRequest(f"“{name_of(base)}” has no searchable document; upload some first.")
    return base


COMMANDS: Mapping[str, Callable[[ArgumentParser], Work]] = {
    "export": export_command,
    "import": import_command,
    "evaluate": evaluate_command,
}
