"""Run as a process that is killed: uploads, replaces, reads again, deletes and changes the embedding model for ever.

It notes what it was told:

python crash_loop.py DATA_DIR JOURNAL SEED
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from contextlib import suppress
from pathlib import Path

from backends.errors import NotFound
from rag.knowledge import KnowledgeService
from rag.model_name import BUNDLED, model_name
from tests.rag.hashed_embeddings import HashedEmbeddings

BASES = ("kept", "dropped now and then")
NAMES = 15  # so few that most uploads replace a file


MODELS = {BUNDLED: HashedEmbeddings(model_name(""), 64), "hub/wide": HashedEmbeddings("wide", 96)}


class TwoModels(KnowledgeService):
    """Can change to and fro between two embedding models that are there at once."""

    def load_model(self, source: str) -> HashedEmbeddings:
        return MODELS[source]


class Loop:
    """One turn after the other, each noted before and after, in a journal that is on the disk line by line."""

    def __init__(self, knowledge: KnowledgeService, folder: Path, journal: Path, seed: int) -> None:
        self.knowledge = knowledge
        self.seed = seed
        self.chance = random.Random(seed)
        self.source = folder / f"source-{seed}"
        self.book = journal.open("a")

    def note(self, what: str, **facts: object) -> None:
        self.book.write(json.dumps({"what": what, **facts}) + "\n")
        self.book.flush()
        os.fsync(self.book.fileno())

    async def run(self) -> None:
        for base in BASES:
            if base not in {there.name for there in await self.knowledge.list()}:
                await self.knowledge.create(base)
        for turn in range(10**6):
            await self.upload(self.chance.choice(BASES), turn)
            if self.chance.random() < 0.5:
                await self.delete(self.chance.choice(BASES))
            if self.chance.random() < 0.2:
                await self.read_again(self.chance.choice(BASES))
            if self.chance.random() < 0.3:
                model = self.chance.choice(list(MODELS))
                self.note("changing the model", model=model)
                await self.knowledge.change_embedding_model(model)
            if self.chance.random() < 0.08:
                await self.drop(BASES[1])

    async def upload(self, base: str, turn: int) -> None:
        number, phrase = self.chance.randrange(NAMES), f"phrase{self.seed}x{turn}"
        name = f"{number}.{'txt' if number % 3 else 'md'}"
        parts = self.chance.randrange(1, 8)
        self.source.write_text(
            "\n\n".join(f"{phrase} part{n} " + "filler words in between " * 40 for n in range(parts))
        )
        self.note("uploading", base=base, name=name)
        record = await self.knowledge.add_file(base, name, self.source)
        self.note("accepted", id=record.id, base=base, name=name, phrase=phrase)
        if self.chance.random() < 0.7:
            for done in await self.knowledge.wait(base, [record.id]):
                self.note(done.state, id=done.id)

    async def delete(self, base: str) -> None:
        if files := await self.knowledge.files(base):
            victim = self.chance.choice(files).id
            self.note("deleting", ids=[victim])
            with suppress(NotFound):  # replaced meanwhile
                await self.knowledge.delete_file(base, victim)
            self.note("deleted", ids=[victim])

    async def drop(self, base: str) -> None:
        ids = [file.id for file in await self.knowledge.files(base)]
        self.note("deleting", ids=ids)
        await self.knowledge.delete(base)
        self.note("deleted", ids=ids)
        await self.knowledge.create(base)

    async def read_again(self, base: str) -> None:
        if files := await self.knowledge.files(base):
            self.note("reading again")
            with suppress(NotFound):
                await self.knowledge.reindex(base, self.chance.choice(files).id)


async def main(data: Path, journal: Path, seed: int) -> None:
    knowledge = TwoModels(data)
    await knowledge.start()
    await Loop(knowledge, data.parent, journal, seed).run()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])))
