"""Everything that only a GPU can show, in one command of under eight minutes.

    python examples/benchmarks/gpu_check.py            # without a GPU: lists the parts, and runs those that need none
    python examples/benchmarks/gpu_check.py --part "static cache" --part "bf16 autocast"

Writes `results/gpu_check.json` and `results/gpu_check.md`. A part that fails is reported with its error, the others
run, and the command then exits with 1. A part without a measured number says 'not run'.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from measuring import RESULTS, machine
from random_host import build, turns

from titans_mal import (
    AutoModelForAudioEmotion,
    ConversationMemoryCache,
    ConversationTrainer,
    ConversationTrainingArguments,
    choose_trained_parts,
    load_conversations,
)


FOLDER = Path(__file__).parent
CHECKPOINT = FOLDER.parent / "quickstart" / "tiny-qwen2-audio-mal"
CONVERSATION = FOLDER.parent / "quickstart" / "conversation"
HAS_GPU = torch.cuda.is_available()
DEVICE = "cuda" if HAS_GPU else "cpu"
TOKENS = 64


@dataclass(frozen=True)
class Part:
    """A part of the check, and what it shows.

    Attributes:
        run: returns numbers or words by name.
        needs_gpu: without one the part is listed as 'not run'.
        package: that the part needs in addition.
    """

    shows: str
    run: Callable[[], dict]
    needs_gpu: bool = True
    package: str | None = None

    def obstacle(self) -> str | None:
        """Why the part cannot run here; None if it can."""
        if self.needs_gpu and not HAS_GPU:
            return "needs a GPU"
        if self.package is not None and importlib.util.find_spec(self.package) is None:
            return f"needs {self.package}"
        return None


def tiny(**kwargs):
    return AutoModelForAudioEmotion.from_pretrained(CHECKPOINT, **kwargs).eval()


def two_turns(model) -> dict:
    """Two turns of one conversation, prepared by the model's processor."""
    table = load_conversations(CONVERSATION)["test"]
    return model.prepare_turn(model.processor, [table[row]["audio"] for row in (0, 1)])


@torch.no_grad()
def score(model, inputs: dict) -> torch.Tensor:
    return model(**inputs, conversation_ids=[0, 0]).emotion_logits.float().cpu()


def difference(model, reference: torch.Tensor, inputs: dict) -> float:
    return float((score(model, inputs) - reference).abs().max())


def training() -> dict:
    """Two steps with the default options: pinned memory and workers."""
    model = tiny()
    choose_trained_parts(model)
    with tempfile.TemporaryDirectory() as folder:
        arguments = ConversationTrainingArguments(
            output_dir=folder, max_steps=2, save_strategy="no", report_to=[], dataloader_num_workers=2
        )
        trainer = ConversationTrainer(
            model, arguments, processor=model.processor, train_dataset=load_conversations(CONVERSATION)["test"]
        )
        loss = trainer.train().training_loss
    return {"loss": loss, "pinned": arguments.dataloader_pin_memory, "device": str(arguments.device)}


def autocast() -> dict:
    model = tiny().to(DEVICE)
    inputs = two_turns(model)
    reference = score(model, inputs)
    with torch.autocast(DEVICE, torch.bfloat16):
        return {"largest difference of logits": difference(model, reference, inputs)}


def device_map() -> dict:
    model = tiny(device_map="auto")
    reference = score(tiny(), two_turns(tiny()))
    return {
        "devices": sorted({str(parameter.device) for parameter in model.parameters()}),
        "largest difference of logits": difference(model, reference, two_turns(model)),
    }


def compiled() -> dict:
    model = tiny().to(DEVICE)
    inputs = two_turns(model)
    reference = score(model, inputs)
    began = time.perf_counter()
    run = torch.compile(model, fullgraph=False)
    found = float((score(run, inputs) - reference).abs().max())
    return {"largest difference of logits": found, "seconds of the first call": time.perf_counter() - began}


def generation(**kwargs) -> dict:
    """Whether a way to generate gives the tokens of the plain one."""
    model = tiny().to(DEVICE)
    row = {name: tensor[:1] for name, tensor in two_turns(model).items()}
    plain, other = (
        model.generate(
            **row, memory_cache=ConversationMemoryCache(model.config), max_new_tokens=8, do_sample=False, **k
        )
        for k in ({}, kwargs)
    )
    return {"same tokens": bool(torch.equal(plain, other))}


def quantised(bits: int) -> dict:
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(load_in_4bit=bits == 4, load_in_8bit=bits == 8)
    model = tiny(quantization_config=config)
    reference = score(tiny(), two_turns(tiny()))
    return {
        "memory": str(next(model.titans_memory.parameters()).dtype),
        "largest difference of logits": difference(model, reference, two_turns(model)),
    }


def synchronisations() -> dict:
    """How often a turn waits for the device, with the memory and without."""
    model = build("small", tokens=TOKENS, device="cuda", dtype=torch.bfloat16)
    inputs, cache = turns(model, 2, tokens=TOKENS), ConversationMemoryCache(model.config, batch_size=2)
    counts = {}
    for name in ("with memory", "host alone"):
        with contextlib.nullcontext() if name == "with memory" else model.disable_memory(), torch.no_grad():
            model(**inputs, memory_cache=cache, logits_to_keep=1)
            torch.cuda.synchronize()
            torch.cuda.set_sync_debug_mode("warn")
            try:
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    model(**inputs, memory_cache=cache, logits_to_keep=1)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        counts[name] = sum("synchroniz" in str(warning.message) for warning in caught)
    return counts


def training_memory() -> dict:
    """The peak of a step of the 24 GB recipe: eight turns of 10 s, a LoRA, gradient checkpointing."""
    tokens = 250
    model = build("7b", tokens=tokens, device="cuda", dtype=torch.bfloat16)
    model.config.adapter_only = True  # as from a base: a LoRA is refused for what is saved in full
    choose_trained_parts(model, lora_rank=16)
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})  # as in a training
    inputs = turns(model, 8, tokens=tokens)
    torch.cuda.reset_peak_memory_stats()
    model.train()
    labels = torch.zeros(8, dtype=torch.long, device="cuda")
    model(**inputs, conversation_ids=[0] * 8, emotion_labels=labels, logits_to_keep=1).loss.backward()
    return {"peak, GiB": torch.cuda.max_memory_allocated() / 2**30}


def script(name: str, *options: str) -> dict:
    """The rows of another benchmark of this folder, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(FOLDER / f"{name}.py"), *options, "--output", folder]
        # Without a box around the error, whose last line is asked for.
        plain = os.environ | {"TYPER_STANDARD_TRACEBACK": "1", "_TYPER_STANDARD_TRACEBACK": "1"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=plain)
        if done.returncode:
            raise RuntimeError((done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1])
        return {"rows": [row for path in Path(folder).glob("*.json") for row in json.loads(path.read_text())["rows"]]}


PARTS: dict[str, Part] = {
    "training": Part("default training of the tiny checkpoint, pinned memory and workers", training),
    "bf16 autocast": Part("logits under autocast against float32", autocast, needs_gpu=False),
    "device_map": Part('`device_map="auto"`', device_map),
    "compile": Part("`torch.compile` of the model", compiled),
    "static cache": Part(
        "generation with a static cache",
        lambda: generation(cache_implementation="static", disable_compile=True),
        needs_gpu=False,
    ),
    "CUDA graphs": Part(
        "generation with a static cache that transformers compiles",
        lambda: generation(cache_implementation="static", disable_compile=False),
    ),
    "4 bit": Part("a host in 4 bit", lambda: quantised(4), package="bitsandbytes"),
    "8 bit": Part("a host in 8 bit", lambda: quantised(8), package="bitsandbytes"),
    "synchronisations": Part("how often a turn waits for the device", synchronisations),
    "overhead of 7B": Part(
        "`host_overhead.py --size 7b` at batch 1 and 8",
        lambda: script("host_overhead", "--size", "7b", "--batch", "1", "--batch", "8", "--repeats", "5"),
    ),
    "engine": Part(
        "the engine against titans-pytorch",
        lambda: script("memory_engine", "--repeats", "5"),
        package="titans_pytorch",
    ),
    "turn-parallel": Part(
        "a training step in one call against turn by turn", lambda: script("turn_parallel", "--size", "small")
    ),
    "training memory": Part("the peak of the 24 GB recipe's step", training_memory),
}


def run_part(name: str) -> dict:
    """The result of a part with its seconds: its error if it fails, or 'not run' with the reason."""
    part = PARTS[name]
    row = {"part": name, "shows": part.shows}
    obstacle = part.obstacle()
    if obstacle is not None:
        return {**row, "result": f"not run: {obstacle}", "seconds": None}
    began = time.perf_counter()
    try:
        result: object = part.run()
    except Exception as error:
        result = f"failed: {type(error).__name__}: {error}"
    if HAS_GPU:
        gc.collect()  # models hold themselves, by their hooks
        torch.cuda.empty_cache()
    return {**row, "result": result, "seconds": round(time.perf_counter() - began, 1)}


def as_markdown(rows: list[dict]) -> str:
    lines = ["| part | shows | result | seconds |", "| --- | --- | --- | ---: |"]
    for row in rows:
        seconds = "-" if row["seconds"] is None else row["seconds"]
        result = row["result"] if isinstance(row["result"], str) else json.dumps(row["result"])
        lines.append(f"| {row['part']} | {row['shows']} | {result.replace('|', '/')} | {seconds} |")
    return "\n".join(lines) + "\n"


def main(
    parts: Annotated[
        list[str] | None, typer.Option("--part", help="Part to run. May be repeated. Default: all.")
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder for the JSON file and the table.")] = RESULTS,
) -> None:
    """Run what can run here, and write one JSON and one Markdown table."""
    unknown = sorted({*(parts or ())} - {*PARTS})
    if unknown:
        raise typer.BadParameter(f"--part must be one of {list(PARTS)}, got {unknown}.")
    rows = [run_part(name) for name in parts or PARTS]
    output.mkdir(parents=True, exist_ok=True)
    (output / "gpu_check.json").write_text(json.dumps({"machine": machine(), "rows": rows}, indent=2) + "\n")
    (output / "gpu_check.md").write_text(as_markdown(rows))
    print(as_markdown(rows))
    if any(str(row["result"]).startswith("failed") for row in rows):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
