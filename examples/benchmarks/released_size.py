"""A host of its released size with random bf16 weights: loading, a turn with memory and without, adapter and state.

    python examples/benchmarks/released_size.py --host Qwen2Audio --config Qwen/Qwen2-Audio-7B-Instruct
    python examples/benchmarks/released_size.py --release Voxtral-Mini-3B      # a release of `RELEASES`
    python examples/benchmarks/released_size.py --host Qwen3ASR        # the defaults of transformers
    python examples/benchmarks/released_size.py --release Gemma-3n-E2B --dry-run    # print its needs and write nothing

Free disk space and memory are checked first. Prefill is compared by the median of paired ratios, with a 95 % interval
by bootstrap.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from measuring import RESULTS, alternate, medians, peak_bytes, print_table, save
from random_checkpoint import needs_of, shapes_of, write_checkpoint
from released_hosts import RELEASES, TURNS, configuration, turn_of, without_vision
from torch import Tensor

import titans_mal
from titans_mal import AutoModelForAudioEmotion, ConversationMemoryCache


LABELS = dict(enumerate(("neutral", "happy", "sad", "angry")))


def interval(ratios: list[float], *, draws: int = 2000) -> tuple[float, float]:
    """The 95 % interval of the median of ratios, by bootstrap."""
    drawn = np.random.default_rng(0).choice(ratios, (draws, len(ratios)))
    low, high = np.quantile(np.median(drawn, axis=1), [0.025, 0.975])
    return float(low), float(high)


def overhead(ratios: list[float]) -> str:
    """The overhead in percent, or the note that it is within the noise."""
    median, (low, high) = float(np.median(ratios)), interval(ratios)
    if low <= 1 <= high:
        return f"within the noise of {100 * (high - low) / 2:.1f} %"
    return f"{100 * (median - 1):+.1f} % ({100 * (low - 1):+.1f} to {100 * (high - 1):+.1f})"


def adapter_sizes(model, folder: Path) -> dict[str, float]:
    """MB of the adapter's weights for each way to store them."""
    sizes = {}
    for dtype in ("float32", "bfloat16"):
        model.config.adapter_dtype = dtype
        model.save_pretrained(folder / dtype)
        sizes[dtype] = (folder / dtype / "model.safetensors").stat().st_size / 1e6
    return sizes


def time_prefill(model, inputs: dict, cache: ConversationMemoryCache, *, repeats: int) -> dict[str, list[float]]:
    """Seconds of a turn with memory and without, in turn."""

    def prefill(*, memory: bool):
        with contextlib.nullcontext() if memory else model.disable_memory():
            return model(**inputs, memory_cache=cache, logits_to_keep=1)

    return alternate({"memory": lambda: prefill(memory=True), "host": lambda: prefill(memory=False)}, repeats=repeats)


def second_turn(model, inputs: dict) -> Tensor:
    """The emotion logits of a turn that reads what the first one wrote."""
    cache = ConversationMemoryCache(model.config)
    for _ in range(2):
        logits = model(**inputs, memory_cache=cache, logits_to_keep=1).emotion_logits
    return logits


@torch.inference_mode()
def measure(host: str, config, folder: Path, *, seconds: float, repeats: int) -> dict:
    model_class = getattr(titans_mal, f"{host}MALForAudioEmotion")
    weights = write_checkpoint(model_class.host_class(), config, folder)
    text = config.get_text_config(decoder=True)
    # Nothing later reads the audio of blocks that share keys and values.
    blocks = text.num_hidden_layers - (getattr(text, "num_kv_shared_layers", None) or 0)
    layers = sorted({blocks // 4, blocks // 2, 3 * blocks // 4})
    began = time.perf_counter()
    model = AutoModelForAudioEmotion.from_base(
        folder, id2label=LABELS, memory_config={"layers": layers}, emotion_readout="linear", dtype=torch.bfloat16
    ).eval()
    loading = time.perf_counter() - began
    for name in model.extension_names:  # as after training: the memory has an effect, and float32 weights
        for parameter in getattr(model, name).parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    inputs, cache = turn_of(model, host, seconds), ConversationMemoryCache(model.config)

    times = time_prefill(model, inputs, cache, repeats=repeats)
    reference = second_turn(model, inputs)
    sizes = adapter_sizes(model, folder / "adapters")
    peak = peak_bytes()
    del model
    reference_cache = cache.nbytes
    again = AutoModelForAudioEmotion.from_pretrained(folder / "adapters" / "float32", dtype=torch.bfloat16).eval()
    is_equal = torch.equal(second_turn(again, inputs), reference)
    del again
    rounded = AutoModelForAudioEmotion.from_pretrained(folder / "adapters" / "bfloat16", dtype=torch.bfloat16).eval()
    changed = float((second_turn(rounded, inputs) - reference).abs().max())
    ratios = [with_memory / without for with_memory, without in zip(times["memory"], times["host"])]
    return {
        "host": host,
        "parameters, B": weights / 2e9,
        "from_base, s": loading,
        "peak, GiB": peak / 2**30,
        "turn, s": medians(times)["memory"],
        "host alone, s": medians(times)["host"],
        "prefill": overhead(ratios),
        "adapter, MB": sizes["float32"],
        "in bf16, MB": sizes["bfloat16"],
        "logits in bf16 differ by": changed,
        "state, kB": reference_cache / 1e3,
        "reload bit-equal": "yes" if is_equal else "no",
    }


@contextlib.contextmanager
def working_folder(folder: Path | None) -> Iterator[Path]:
    with contextlib.nullcontext(folder) if folder is not None else tempfile.TemporaryDirectory() as found:
        Path(found).mkdir(parents=True, exist_ok=True)
        yield Path(found)


def main(
    host: Annotated[str, typer.Option(help=f"Host: {', '.join(TURNS)}.")] = "Qwen3ASR",
    config: Annotated[
        str,
        typer.Option(help="Folder or Hub repo of a released configuration. Default: the defaults of transformers."),
    ] = "",
    release: Annotated[
        str, typer.Option(help=f"Release, in place of --host and --config: {', '.join(RELEASES)}.")
    ] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print the disk space and memory that it needs.")
    ] = False,
    seconds: Annotated[float, typer.Option(help="Length of a turn, in seconds.")] = 10.0,
    repeats: Annotated[int, typer.Option(help="Number of rounds, which alternate between memory and no memory.")] = 9,
    folder: Annotated[Path | None, typer.Option(help="Folder for the weights. Default: a temporary folder.")] = None,
    output: Annotated[Path, typer.Option(help="Folder for the JSON file.")] = RESULTS,
) -> None:
    """Measure a host of its released size, and print its line of the table."""
    host, built = configuration(host, config, release)
    with without_vision(host):
        if dry_run:
            host_class = getattr(titans_mal, f"{host}MALForAudioEmotion").host_class()
            weights = 2 * sum(tensor.numel() for tensor in shapes_of(host_class, built).values())
            needs = {f"{name}, GiB": needed / 2**30 for name, needed in needs_of(weights).items()}
            print_table([{"host": release or host, "parameters, B": weights / 2e9, **needs}])
            return
        with working_folder(folder) as where:
            row = measure(host, built, where, seconds=seconds, repeats=repeats)
    row["host"] = release or host
    print_table([row])
    about = release or config or "defaults of transformers"
    save(f"released_size_{release or host}", [row], output, seconds=seconds, config=about)


if __name__ == "__main__":
    typer.run(main)
