"""What a GPU gives: tokens a second of a 7B shape with random weights beside the limit that its memory sets.

    python gpu.py [--shape 7b|tiny] [--streams 1 8 32 128] [--tokens 128] [--folder DIR]

One file that runs alone, on a machine with torch and transformers; with vLLM installed it measures that too. Each
engine runs in a process of its own, so that afterwards it can be seen whether its memory is back. A step reads every
weight once, whatever the number of streams: streams x bandwidth / bytes of the weights is the most that can be had,
less what the attention cache is read for. Without a GPU it runs a tiny shape on the CPU, to be tried out.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

SHAPES = {
    "7b": {
        "vocab_size": 152_064, "hidden_size": 3584, "intermediate_size": 18_944, "num_hidden_layers": 28,
        "num_attention_heads": 28, "num_key_value_heads": 4,
    },
    "tiny": {
        "vocab_size": 2_000, "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4,
        "num_attention_heads": 8, "num_key_value_heads": 4,
    },
}  # fmt: skip
CONTEXT, PROMPT = 4096, 128
GIB = 1024**3


def main() -> None:
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="7b" if on_gpu else "tiny")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32, 128] if on_gpu else [1, 4])
    parser.add_argument("--tokens", type=int, default=128 if on_gpu else 32, help="of each answer")
    parser.add_argument("--folder", type=Path, help="where the weights are put (15 GB for 7b)")
    asked = parser.parse_args()
    print(torch.cuda.get_device_name() if on_gpu else "no GPU: the CPU, to try this file out")
    with tempfile.TemporaryDirectory(dir=asked.folder, prefix="gpu-bench-") as name:
        folder, before = Path(name), memory_taken()
        # Everything that touches the device is in a child: this process would keep a context on it.
        alone(write, folder, asked.shape)
        size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        bandwidth = alone(memory_bandwidth)
        disk = read_speed(folder)
        print(f"weights {size / GIB:.2f} GiB; memory {bandwidth / 1e9:.0f} GB/s; disk {disk / 1e9:.2f} GB/s")
        engines = [("transformers, its continuous batching alone", with_transformers)]
        if importlib.util.find_spec("vllm") is not None and on_gpu:
            engines.append(("vLLM", with_vllm))
        for engine, measure in engines:
            told = alone(measure, folder, asked.streams, asked.tokens)
            load = told.pop("load")
            print(f"{engine}: loaded in {load:.1f} s, {size / load / disk:.2f} of the speed of the disk")
            for streams, rate in told.items():
                limit = int(streams) * bandwidth / size
                print(f"  {streams:>4} streams {rate:9.1f} tokens/s, {rate / limit:.2f} of the limit {limit:.0f}")
        time.sleep(2)
        print(f"memory taken: {before / GIB:.2f} GiB before, {memory_taken() / GIB:.2f} GiB after")


def alone(function: Any, *arguments: Any) -> Any:
    """What `function` returns, run in a new process; ends the program when it fails."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(theirs, function, arguments))
    process.start()
    theirs.close()
    try:
        told = json.loads(ours.recv_bytes())
    except EOFError:
        sys.exit(f"{function.__name__} failed; the lines above say why.")
    process.join()
    return told


def _answer(pipe: Any, function: Any, arguments: tuple[Any, ...]) -> None:
    pipe.send_bytes(json.dumps(function(*arguments)).encode())


def memory_taken() -> int:
    """Bytes in use on the first GPU, else of main memory."""
    if shutil.which("nvidia-smi"):
        import subprocess

        query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "-i", "0"]
        return int(subprocess.run(query, capture_output=True, text=True, check=True).stdout) * 1024**2
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return (int(lines["MemTotal"].split()[0]) - int(lines["MemAvailable"].split()[0])) * 1024


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def write(folder: Path, shape: str) -> None:
    """Random weights in bfloat16 (float32 on a CPU), as a checkpoint in `folder`."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.set_default_dtype(torch.bfloat16 if device() == "cuda" else torch.float32)
    config = Qwen2Config(**SHAPES[shape], max_position_embeddings=CONTEXT, tie_word_embeddings=False)
    config.eos_token_id = config.bos_token_id = None
    with torch.device(device()):
        Qwen2ForCausalLM(config).save_pretrained(folder)


def memory_bandwidth() -> float:
    """Bytes a second that the device reads and writes when it copies a large tensor."""
    source = torch.ones(GIB // 4 if device() == "cuda" else GIB // 32, device=device())
    target = torch.empty_like(source)
    rounds = 20
    target.copy_(source)
    wait()
    began = time.perf_counter()
    for _ in range(rounds):
        target.copy_(source)
    wait()
    return float(2 * rounds * source.nbytes / (time.perf_counter() - began))


def wait() -> None:
    if device() == "cuda":
        torch.cuda.synchronize()


def read_speed(folder: Path) -> float:
    """Bytes a second from the disk, with what is cached of the files dropped before and after."""
    size, began = 0, 0.0
    for turn in ("drop", "read"):
        began = time.perf_counter()
        for path in folder.glob("*.safetensors"):
            with path.open("rb", buffering=0) as file:
                while turn == "read" and (chunk := file.read(64 * 1024**2)):
                    size += len(chunk)
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return size / (time.perf_counter() - began)


def prompt(number: int) -> list[int]:
    return [10 + (number * 97 + at) % 1_900 for at in range(PROMPT)]


def with_transformers(folder: Path, streams: list[int], tokens: int) -> dict[str, float]:
    """Seconds to load, and tokens a second by number of streams, with the library's continuous batching."""
    from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig

    began = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", device_map=device()).eval()
    wait()
    told = {"load": time.perf_counter() - began}
    pages = 2 + max(streams) * (PROMPT + tokens) // 32 * 2
    for count in streams:
        manager = model.init_continuous_batching(
            generation_config=GenerationConfig(do_sample=False, eos_token_id=-1, max_new_tokens=tokens),
            continuous_batching_config=ContinuousBatchingConfig(
                page_size=32, num_blocks=pages, max_batch_tokens=2048, max_requests_per_batch=max(streams),
                use_cuda_graph=False, use_async_batching=False,
            ),
        )  # fmt: skip
        manager.start()
        _run(manager, 1, 4)  # warm
        began = time.perf_counter()
        _run(manager, count, tokens)
        told[str(count)] = count * tokens / (time.perf_counter() - began)
        manager.stop(block=True)
        del manager
        gc.collect()
    return told


def _run(manager: Any, count: int, tokens: int) -> None:
    for number in range(count):
        manager.add_request(prompt(number), max_new_tokens=tokens, eos_token_id=-1)
    done = 0
    while done < count:
        result = manager.get_result(timeout=60)
        if result is None:
            raise RuntimeError("no answer within 60 seconds")
        if result.error is not None:
            raise RuntimeError(result.error)
        done += result.is_finished()


def with_vllm(folder: Path, streams: list[int], tokens: int) -> dict[str, float]:
    """The same with vLLM."""
    from vllm import LLM, SamplingParams

    began = time.perf_counter()
    model = LLM(str(folder), skip_tokenizer_init=True, max_model_len=CONTEXT)
    told = {"load": time.perf_counter() - began}
    params = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True, detokenize=False)
    for count in streams:
        prompts = [{"prompt_token_ids": prompt(number)} for number in range(count)]
        began = time.perf_counter()
        model.generate(prompts, params, use_tqdm=False)
        told[str(count)] = count * tokens / (time.perf_counter() - began)
    return told


if __name__ == "__main__":
    main()
