"""On the PYTHONPATH of a process under test it writes down every time that its event loop stood still for too long.

Loaded by the interpreter itself at start, before any of our code; it takes the place of `uvloop.run`. A loop stands
still while it computes, waits for a lock (the interpreter's own too) or for a disk. What the machine did is taken
off: the time that threads waited for a processor, by Linux's own count, what the host of a virtual machine took of its
processors meanwhile, and where nothing of Python ran at all, what the process did not compute either (its pages were
being read back, or all of the machine was paused).
"""

import asyncio
import gc
import os
import sys
import threading
import time
import traceback

_LOG = os.environ["LOOP_WATCHDOG_LOG"]
_LIMIT = float(os.environ["LOOP_WATCHDOG_LIMIT"])  # seconds
_EVERY = 0.01


def _waited_for_a_processor(but: int | None) -> dict[str, float]:
    """Seconds, of each thread of this process but one, since it began. Source: Linux, sched-stats.rst."""
    waited = {}
    for task in set(os.listdir("/proc/self/task")) - {str(but)}:
        try:
            with open(f"/proc/self/task/{task}/schedstat", encoding="ascii") as file:
                waited[task] = int(file.read().split()[1]) / 1e9
        except OSError:
            pass  # a thread that ended meanwhile
    return waited


def _stolen() -> float:
    """Seconds that the host had this machine's processors for others, since it began. Source: Linux, proc_stat(5)."""
    with open("/proc/stat", encoding="ascii") as file:
        return int(file.readline().split()[8]) / os.sysconf("SC_CLK_TCK")


class _Watch:
    """Ticks on the loop; a thread beside it looks at what all threads do while no tick comes."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop, self.seen = loop, ""
        self.ticked = self.looked = time.monotonic()
        self.deaf, self.computed = 0.0, time.process_time()  # deaf: the longest that the thread beside did not run
        self.collecting = 0.0
        gc.callbacks.append(self.collects)
        self.beside = threading.Thread(target=self.look, daemon=True)
        self.beside.start()
        self.waited, self.stolen = _waited_for_a_processor(self.beside.native_id), _stolen()
        self.tick()

    def tick(self) -> None:
        now, waited = time.monotonic(), _waited_for_a_processor(self.beside.native_id)
        computed, stolen = time.process_time(), _stolen()
        machine = stolen - self.stolen + sum(seconds - self.waited.get(task, 0.0) for task, seconds in waited.items())
        still = now - self.ticked - _EVERY - machine
        if max(self.deaf, now - self.looked) > _LIMIT:
            still = min(still, computed - self.computed)
        if still > _LIMIT:
            with open(_LOG, "a", encoding="utf-8") as log:
                log.write(f"the loop stood still for {1000 * still:.0f} ms\n{self.seen}\n")
        self.ticked, self.waited, self.stolen, self.computed = time.monotonic(), waited, stolen, computed
        self.deaf, self.seen = 0.0, ""
        self.loop.call_later(_EVERY, self.tick)

    def collects(self, phase: str, info: dict[str, int]) -> None:
        """No thread can look while the collector runs: it tells by itself."""
        now = time.monotonic()
        if phase == "start":
            self.collecting = now
        elif now - self.collecting > _LIMIT:
            self.seen = f"for {1000 * (now - self.collecting):.0f} ms garbage was collected: {info}"

    def look(self) -> None:
        while True:
            time.sleep(_EVERY)
            now = time.monotonic()
            self.deaf, self.looked = max(self.deaf, now - self.looked), now
            if not self.seen and now - self.ticked > _LIMIT:
                stacks = (traceback.format_stack(frame)[-8:] for frame in sys._current_frames().values())
                self.seen = "\n".join("".join(stack) for stack in stacks)


def _install() -> None:
    import uvloop

    run = uvloop.run

    def watched_run(main, **options):  # type: ignore[no-untyped-def]
        async def watched():  # type: ignore[no-untyped-def]
            _Watch(asyncio.get_running_loop())
            return await main

        return run(watched(), **options)

    uvloop.run = watched_run


_install()
