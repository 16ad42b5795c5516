"""kill -9 at random moments of uploads and deletes: what was reported searchable is, and nothing is half there.

    python -m bench.crash [--rounds 200]

After every kill the database passes its integrity check; at the end the service is started once more, takes up what was
unfinished, and every file ever accepted is looked for by its phrase.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

from tests.rag.test_crash import rounds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    count = parser.parse_args().rounds
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        seen = asyncio.run(rounds(Path(folder), count))
    print(
        f"{count} kills in {time.monotonic() - began:.0f} s: {seen.accepted} files accepted, {seen.reported} reported "
        f"searchable, {seen.searchable} there at the end and all found; 0 lost, 0 half there, integrity ok"
    )


if __name__ == "__main__":
    main()
