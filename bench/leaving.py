"""How soon a client that leaves frees its place: from the end of its connection to the engine's own count.

python -m bench.leaving [--engines transformers remote vllm] [--rounds 10]

In each round three clients leave in the middle of long answers. The goal is one second.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from backends.engines.vllm import vllm_python
from tests.backends.test_engine_contract import ENGINES, Served, long_answers

LIMIT = 1.0  # seconds


async def leave(served: Served) -> float:
    """Seconds until the engine makes no answer any more."""
    streams = await long_answers(served)
    left = time.monotonic()
    await asyncio.gather(*(stream.aclose() for stream in streams))
    while await served.running():
        pass
    return time.monotonic() - left


async def measure(name: str, rounds: int) -> bool:
    with tempfile.TemporaryDirectory() as logs:
        async with ENGINES[name](Path(logs)) as served:
            took = [await leave(served) for _ in range(rounds)]
    median, worst = 1000 * statistics.median(took), 1000 * max(took)
    share = max(took) / LIMIT
    print(f"{name}: free after {median:.0f} ms, {worst:.0f} at worst: {share:.2f} of the limit", flush=True)
    return share <= 1


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = [name for name in ENGINES if name != "vllm" or vllm_python()]
    parser.add_argument("--engines", nargs="+", choices=list(ENGINES), default=here)
    parser.add_argument("--rounds", type=int, default=10)
    given = parser.parse_args()
    return 0 if all([await measure(name, given.rounds) for name in given.engines]) else 1


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main()))
