"""kill -9 at random moments of uploads and deletes: what was reported searchable is, and nothing is half there.

    python -m bench.crash [--rounds 200] [--beside 2]

Files are uploaded, replaced by changed ones, read again and deleted, and whole knowledge bases with them, while the
embedding model is changed to and fro. After every kill the database passes its integrity check and holds what was
reported; at the end the service is started once more, takes up what was unfinished, and every file ever accepted is
looked for by its phrase. Some run beside each other, in data folders of their own. Ends with an error where anything
is lost.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.rag.test_crash import Seen, rounds


async def beside(folder: Path, count: int, lanes: int) -> list[Seen]:
    """`count` kills in all, in `lanes` data folders."""
    shares = [count // lanes + (lane < count % lanes) for lane in range(lanes)]
    for lane in range(lanes):
        (folder / str(lane)).mkdir()
    return await asyncio.gather(*(rounds(folder / str(lane), share, lane) for lane, share in enumerate(shares)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--beside", type=int, default=2, help="how many at once")
    given = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        seen = asyncio.run(beside(Path(folder), given.rounds, given.beside))
    interrupted = sum((one.interrupted for one in seen), Counter[str]())
    accepted, reported = sum(one.accepted for one in seen), sum(one.reported for one in seen)
    print(
        f"{given.rounds} kills in {time.monotonic() - began:.0f} s: {accepted} files accepted, {reported} reported "
        f"searchable, {sum(one.searchable for one in seen)} there at the end and all found; 0 lost, 0 half there, "
        "integrity ok"
    )
    print("the last thing noted before the kill:", ", ".join(f"{n} {what}" for what, n in interrupted.most_common()))


if __name__ == "__main__":
    main()
