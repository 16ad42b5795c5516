"""How fast an original checkpoint is converted, beside what `cp` reaches for the same bytes, and with how much memory.

    python -m bench.conversion [--gib 2] [--shards 4] [--layout bin|safetensors]

The checkpoint is a Qwen 1 with random weights in bfloat16; its words come from ../shared/families. Both, copy and
conversion, read files that lie in the page cache and end when their bytes are on the disk. The conversion runs in a
process of its own; what that needs before it reads its first byte (to import torch and transformers) is told apart.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORDS = ROOT.parent / "shared" / "families" / "qwen1"
HIDDEN, INNER, HEADS = 2048, 5504, 16
GIB = 1024**3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gib", type=float, default=2.0, help="size of the checkpoint in GiB")
    parser.add_argument("--shards", type=int, default=4, help="number of its weight files")
    parser.add_argument("--layout", choices=("bin", "safetensors"), default="bin", help="what its weight files are")
    parser.add_argument("--rounds", type=int, default=3, help="how often to measure; the fastest of each counts")
    parser.add_argument("--folder", type=Path, help="where to put everything (some 3 times its size)")
    asked = parser.parse_args()
    if not WORDS.is_dir():
        sys.exit("The words of the synthetic checkpoint come from ../shared/families, which is not here.")
    with tempfile.TemporaryDirectory(dir=asked.folder, prefix="quartet-conversion-") as name:
        measure(Path(name), asked)


def measure(folder: Path, asked: argparse.Namespace) -> None:
    source = folder / "Synthetic-Qwen"
    # In a process of its own, so that its memory is not counted.
    subprocess.run(
        [sys.executable, "-c", f"from bench.conversion import make; make({str(source)!r}, {asked.gib}, {asked.shards}, "
         f"{asked.layout!r})"], check=True, cwd=ROOT,
    )  # fmt: skip
    files = sorted(source.iterdir())
    size, largest = sum(file.stat().st_size for file in files), max(file.stat().st_size for file in files)
    print(f"{asked.layout}: {size / GIB:.2f} GiB in {asked.shards} weight files, the largest {largest / GIB:.2f} GiB")
    copies, conversions, peak, before = [], [], 0, 0.0
    for _ in range(asked.rounds):
        copies.append(copy(source, folder / "copy"))
        seconds, before, peak = convert(source, folder / "converted")
        conversions.append(seconds)
    print(f"cp          {size / GIB / min(copies):6.2f} GiB/s   {min(copies):6.2f} s")
    print(f"conversion  {size / GIB / min(conversions):6.2f} GiB/s   {min(conversions):6.2f} s, after {before:.1f} s")
    print(f"ratio       {min(copies) / min(conversions):6.2f}")
    print(f"peak memory {peak / GIB:6.2f} GiB, {peak / largest:.2f} of the largest weight file")


def make(folder: str, gib: float, shards: int, layout: str) -> None:
    """Write a checkpoint of this size into a new folder."""
    import torch
    from safetensors.torch import save_file

    target = Path(folder)
    target.mkdir()
    for words in WORDS.iterdir():
        if words.suffix in (".json", ".tiktoken") and "golden" not in words.name and ".index." not in words.name:
            shutil.copyfile(words, target / words.name)
    config = json.loads((WORDS / "config.json").read_text())
    layer = 2 * (4 * HIDDEN * HIDDEN + 3 * HIDDEN * INNER)
    layers = max(shards, round(gib * GIB / layer))
    config |= {"hidden_size": HIDDEN, "intermediate_size": 2 * INNER, "num_attention_heads": HEADS}
    config |= {"kv_channels": HIDDEN // HEADS, "num_hidden_layers": layers, "bf16": True}
    (target / "config.json").write_text(json.dumps(config))

    def weight(*shape: int) -> torch.Tensor:
        return torch.randn(shape).to(torch.bfloat16)

    index: dict[str, str] = {}
    for number in range(shards):
        tensors: dict[str, torch.Tensor] = {}
        for at in range(number * layers // shards, (number + 1) * layers // shards):
            name = f"transformer.h.{at}."
            tensors |= {
                f"{name}ln_1.weight": weight(HIDDEN),
                f"{name}attn.c_attn.weight": weight(3 * HIDDEN, HIDDEN),
                f"{name}attn.c_attn.bias": weight(3 * HIDDEN),
                f"{name}attn.c_proj.weight": weight(HIDDEN, HIDDEN),
                f"{name}ln_2.weight": weight(HIDDEN),
                f"{name}mlp.w1.weight": weight(INNER, HIDDEN),
                f"{name}mlp.w2.weight": weight(INNER, HIDDEN),
                f"{name}mlp.c_proj.weight": weight(HIDDEN, INNER),
            }
        if number == 0:
            tensors["transformer.wte.weight"] = weight(config["vocab_size"], HIDDEN)
        if number == shards - 1:
            tensors["transformer.ln_f.weight"] = weight(HIDDEN)
            tensors["lm_head.weight"] = weight(config["vocab_size"], HIDDEN)
        stem = f"{number + 1:05}-of-{shards:05}"
        file = f"pytorch_model-{stem}.bin" if layout == "bin" else f"model-{stem}.safetensors"
        if layout == "bin":
            torch.save(tensors, target / file)
        else:
            save_file(tensors, target / file, metadata={"format": "pt"})
        index |= dict.fromkeys(tensors, file)
    listing = "pytorch_model.bin.index.json" if layout == "bin" else "model.safetensors.index.json"
    (target / listing).write_text(json.dumps({"weight_map": index}))


def copy(source: Path, target: Path) -> float:
    """Seconds that `cp` takes until its bytes are on the disk."""
    os.sync()
    began = time.perf_counter()
    subprocess.run(["cp", "-r", str(source), str(target)], check=True)
    for file in target.iterdir():
        flush(file)
    seconds = time.perf_counter() - began
    shutil.rmtree(target)
    return seconds


def flush(file: Path) -> None:
    with file.open("rb") as opened:
        os.fsync(opened.fileno())


def convert(source: Path, target: Path) -> tuple[float, float, int]:
    """Seconds of the conversion, seconds before it began, and the most memory of its process in bytes."""
    os.sync()
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", f"from bench.conversion import child; child({str(source)!r}, {str(target)!r})"],
        check=True, cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    whole = time.perf_counter() - began
    told = json.loads(done.stdout.splitlines()[-1])
    shutil.rmtree(target)
    return told["seconds"], whole - told["seconds"], told["peak"]


def child(source: str, target: str) -> None:
    """What the process of a conversion does; prints how long it took and the most memory it had."""
    import transformers
    from transformers.models.qwen2 import modeling_qwen2  # noqa: F401 - imports are not what is measured

    from backends.families import recognise
    from backends.families.cache import content_key, converted_into

    transformers.logging.set_verbosity_error()
    began = time.perf_counter()
    checkpoint = recognise(Path(source))
    converted_into(checkpoint, Path(target), content_key(checkpoint), lambda progress: None)
    seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))


if __name__ == "__main__":
    main()
