"""What `python app.py` does with documents besides serving them: export and import. Reads no command line itself.

Each command adds its arguments to a parser and gives back the work, which returns the line to print.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path


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
        from rag.transfer import export_base, open_store

        with closing(open_store(at.data_dir, at.database_url)) as store:
            done = export_base(store, at.data_dir, given.name, given.file.absolute())
        return f"Exported “{done.name}”: {done.files} files, {done.passages} passages, to {given.file}"

    return work


def import_command(parser: ArgumentParser) -> Work:
    """`import FILE [--name NAME]`: what `export` has written, into this store."""
    parser.add_argument("file", type=Path)
    parser.add_argument("--name", default="")

    def work(given: Namespace, at: Documents) -> str:
        from rag.embeddings import WorkerEmbeddings
        from rag.transfer import import_base, open_store

        model = WorkerEmbeddings(at.embedding_model).name
        with closing(open_store(at.data_dir, at.database_url)) as store:
            done = import_base(store, at.data_dir, given.file.absolute(), given.name, model)
        later = f"; {done.waiting} files are read by the next start" if done.waiting else ""
        return f"Imported “{done.name}”: {done.files} files, {done.passages} passages{later}"

    return work


COMMANDS: Mapping[str, Callable[[ArgumentParser], Work]] = {"export": export_command, "import": import_command}
