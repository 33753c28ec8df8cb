"""A host of its released size with random bf16 weights: loading, a turn with memory and without, adapter and state.

    python examples/benchmarks/released_size.py --host Qwen2Audio --config Qwen/Qwen2-Audio-7B-Instruct
    python examples/benchmarks/released_size.py --release Voxtral-Mini-3B      # a size of the table below
    python examples/benchmarks/released_size.py --host Qwen3ASR        # the defaults of transformers
    python examples/benchmarks/released_size.py --release Gemma-3n-E2B --dry-run    # what it needs, nothing written

Weights are written shard by shard, so that the model is in memory once, when it is loaded. What it takes of disk and
memory is checked before. Prefill is compared by the median of paired ratios, with its 95 % interval by bootstrap.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated
from unittest import mock

import numpy as np
import torch
import typer
from measuring import RESULTS, alternate, medians, peak_bytes, print_table, save
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig

import titans_mal
from titans_mal import AutoModelForAudioEmotion, ConversationMemoryCache


LABELS = dict(enumerate(("neutral", "happy", "sad", "angry")))
SHARD_BYTES = 1 << 30
PROMPT_TOKENS = 20


# Sizes of releases, put over the defaults of transformers where no configuration is at hand: (host, fields).
RELEASES: dict[str, tuple[str, dict]] = {
    "Voxtral-Mini-3B": ("Voxtral", {"audio_token_id": 24}),
    "GLM-ASR-Nano": ("GlmAsr", {}),
    "Qwen3-ASR-1.7B": ("Qwen3ASR", {}),
    "Granite-Speech-3.3-2B": (
        "GraniteSpeech",
        {
            "audio_token_index": 49159,
            "has_lora_adapter": False,
            "text_config": {
                "vocab_size": 49160,
                "hidden_size": 2048,
                "intermediate_size": 8192,
                "num_hidden_layers": 40,
                "num_attention_heads": 32,
                "num_key_value_heads": 8,
            },
            "encoder_config": {"num_layers": 16, "output_dim": 256},
            "projector_config": {
                "hidden_size": 1024,
                "encoder_hidden_size": 1024,
                "num_hidden_layers": 2,
                "num_attention_heads": 16,
                "intermediate_size": 4096,
                "cross_attention_frequency": 1,
            },
        },
    ),
    "Qwen2.5-Omni-3B": (
        "Qwen2_5Omni",
        {
            "text_config": {
                "vocab_size": 151936,
                "hidden_size": 2048,
                "intermediate_size": 11008,
                "num_hidden_layers": 36,
                "num_attention_heads": 16,
                "num_key_value_heads": 2,
            },
            "audio_config": {"output_dim": 2048},
            "vision_config": {"out_hidden_size": 2048, "hidden_size": 1280},
        },
    ),
    "Gemma-3n-E2B": (
        "Gemma3n",
        {
            "text_config": {
                "num_hidden_layers": 30,
                "intermediate_size": 8192,
                "num_kv_shared_layers": 10,
                "activation_sparsity_pattern": [0.95] * 10 + [0.0] * 20,
                "layer_types": (["sliding_attention"] * 4 + ["full_attention"]) * 6,
            }
        },
    ),
}


# --- A turn of noise for each host: the inputs of its audio tower, and its audio tokens


def halved_twice(frames: int) -> int:
    """Tokens of a tower that convolves with stride 2 and pools by 2, as Whisper's in Qwen2-Audio."""
    return ((frames - 1) // 2 + 1 - 2) // 2 + 1


def of_whole_window(mask_name: str, tokens: Callable[[int], int]):
    """Features of one window of the tower, with a mask of what is audio."""

    def turn(config, seconds: float) -> tuple[dict[str, Tensor], int]:
        audio = config.audio_config
        window = 2 * (getattr(audio, "max_source_positions", None) or audio.max_position_embeddings)
        frames = min(window, round(100 * seconds))
        mask = (torch.arange(window) < frames).long()[None]
        return {"input_features": torch.randn(1, audio.num_mel_bins, window), mask_name: mask}, tokens(frames)

    return turn


def qwen2_5_omni(config, seconds: float) -> tuple[dict[str, Tensor], int]:
    frames = round(100 * seconds)
    features = torch.randn(1, config.audio_config.num_mel_bins, frames)
    mask = torch.ones(1, frames, dtype=torch.long)
    return {"input_features": features, "feature_attention_mask": mask}, halved_twice(frames)


def qwen3_asr(config, seconds: float) -> tuple[dict[str, Tensor], int]:
    frames = 100 * math.ceil(seconds)
    features = torch.randn(1, config.audio_config.num_mel_bins, frames)
    mask = torch.ones(1, frames, dtype=torch.long)
    return {"input_features": features, "input_features_mask": mask}, 13 * math.ceil(seconds)


def voxtral(config, seconds: float) -> tuple[dict[str, Tensor], int]:
    audio = config.audio_config
    features = torch.randn(1, audio.num_mel_bins, 2 * audio.max_source_positions)
    return {"input_features": features}, audio.max_source_positions * audio.hidden_size // audio.intermediate_size


def granite_speech(config, seconds: float) -> tuple[dict[str, Tensor], int]:
    frames = round(50 * seconds)
    tokens = 3 * math.ceil(frames / 15)
    features = torch.randn(1, frames, config.encoder_config.input_dim)
    return {"input_features": features, "input_features_mask": torch.ones(1, tokens, dtype=torch.bool)}, tokens


def gemma3n(config, seconds: float) -> tuple[dict[str, Tensor], int]:
    frames = round(100 * seconds)
    features = torch.randn(1, frames, config.audio_config.input_feat_size)
    mask = torch.ones(1, frames, dtype=torch.bool)
    return {"input_features": features, "input_features_mask": mask}, config.audio_soft_tokens_per_image


TURNS = {
    "Qwen2Audio": of_whole_window("feature_attention_mask", halved_twice),
    "Qwen2_5Omni": qwen2_5_omni,
    "Qwen3ASR": qwen3_asr,
    "Voxtral": voxtral,
    "GlmAsr": of_whole_window("input_features_mask", lambda frames: ((frames - 1) // 2 + 1 - 4) // 4 + 1),
    "GraniteSpeech": granite_speech,
    "Gemma3n": gemma3n,
}


def turn_of(model, host: str, seconds: float) -> dict[str, Tensor]:
    """Inputs of a turn of noise."""
    torch.manual_seed(0)
    audio, tokens = TURNS[host](model.config, seconds)
    words = torch.randint(20, 90, (1, PROMPT_TOKENS))
    placeholders = torch.full((1, tokens), model.audio_token_id)
    ids = torch.cat([words[:, :5], placeholders, words[:, 5:]], dim=1)
    audio = {name: value.to(model.dtype) if value.is_floating_point() else value for name, value in audio.items()}
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **audio}


# --- A checkpoint of random weights


def write_checkpoint(host_class, config, folder: Path) -> int:
    """Random bf16 weights of a configuration, a shard at a time; returns their bytes.

    Raises:
        RuntimeError: if disk or memory do not suffice.
    """
    tensors = shapes_of(host_class, config)
    total = 2 * sum(tensor.numel() for tensor in tensors.values())
    check_resources(total, folder)
    generator, shard, held, files = torch.Generator().manual_seed(0), {}, 0, []
    for name, tensor in tensors.items():
        shard[name] = random_weight(name, tensor, generator)
        held += shard[name].nbytes
        if held >= SHARD_BYTES:
            files.append((shard, _write_shard(shard, folder, len(files))))
            shard, held = {}, 0
    if shard:
        files.append((shard, _write_shard(shard, folder, len(files))))
    names = {name: file for part, file in files for name in part}
    index = {"metadata": {"total_size": total}, "weight_map": names}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config.architectures = [host_class.__name__]
    config.save_pretrained(folder)
    return total


def shapes_of(host_class, config) -> dict[str, Tensor]:
    """The weights of a host by name, without values."""
    with torch.device("meta"):
        model = host_class(config)
    model.tie_weights()
    running = {key: tensor for key, tensor in model.state_dict().items() if "running" in key}
    return {**dict(model.named_parameters()), **running}


def random_weight(name: str, tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Random weights in bf16: norms are 1, biases 0, and matrices small noise."""
    if tensor.dim() <= 1:
        value = 0.0 if name.endswith(("bias", "running_mean")) else 1.0
        return torch.full(tensor.shape, value, dtype=torch.bfloat16)
    return torch.empty(tensor.shape, dtype=torch.bfloat16).normal_(std=0.02, generator=generator)


def _write_shard(shard: dict[str, Tensor], folder: Path, number: int) -> str:
    name = f"model-{number + 1:05d}.safetensors"
    save_file(shard, folder / name, metadata={"format": "pt"})
    for key in shard:
        shard[key] = torch.empty(0)  # written: only the name is still needed
    return name


def needs_of(weights: int) -> dict[str, int]:
    """The bytes of disk and memory that weights of so many bytes take."""
    return {"disk": weights + (1 << 30), "memory": weights * 5 // 4 + (1 << 30)}


def check_resources(weights: int, folder: Path) -> None:
    """Raise a RuntimeError if disk or memory do not suffice for weights of so many bytes."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    available = int(lines["MemAvailable"].split()[0]) * 1024
    free_bytes = {"disk": shutil.disk_usage(folder).free, "memory": available}
    for name, needed in needs_of(weights).items():
        free = free_bytes[name]
        if needed > free:
            raise RuntimeError(f"{needed / 2**30:.1f} GiB of {name} are needed, and {free / 2**30:.1f} are free.")


# --- The measurement


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


@contextlib.contextmanager
def without_vision(host: str) -> Iterator[None]:
    """Gemma 3n's vision tower comes from another package, timm; without it there is none."""
    if host != "Gemma3n" or importlib.util.find_spec("timm") is not None:
        yield
        return
    from transformers.models.gemma3n import modeling_gemma3n

    build = modeling_gemma3n.AutoModel.from_config

    def from_config(config, **kwargs):
        return torch.nn.Identity() if config.model_type == "gemma3n_vision" else build(config, **kwargs)

    print("Without timm there is no vision tower.")
    with mock.patch.object(modeling_gemma3n.AutoModel, "from_config", from_config):
        yield


def configuration(host: str, config: str, release: str) -> tuple[str, PreTrainedConfig]:
    """The host and the configuration that the options name."""
    fields: dict = {}
    if release:
        if release not in RELEASES:
            raise typer.BadParameter(f"--release must be one of {list(RELEASES)}, got {release!r}.")
        host, fields = RELEASES[release]
    if host not in TURNS:
        raise typer.BadParameter(f"--host must be one of {list(TURNS)}, got {host!r}.")
    config_class = getattr(titans_mal, f"{host}MALConfig")
    native = AutoConfig.from_pretrained(config) if config else config_class.host_class()()
    own = config_class.fields_of_host(native)
    own |= {
        name: {**dict_of(own.get(name)), **value} if isinstance(value, dict) else value
        for name, value in fields.items()
    }
    return host, config_class.host_class()(**own)


def dict_of(config) -> dict:
    """The fields of a part of a configuration that do not follow from others."""
    fields = config if isinstance(config, dict) else {} if config is None else config.to_dict()
    return {name: value for name, value in fields.items() if name not in ("layer_types", "head_dim")}


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
