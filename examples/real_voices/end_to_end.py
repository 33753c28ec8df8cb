"""A real host on human voices, from its parts to a repository that transformers alone loads.

    python examples/real_voices/end_to_end.py --whisper openai/whisper-tiny.en \\
        --language-model HuggingFaceTB/SmolLM2-135M-Instruct --voices RAVDESS --output OUT

A Qwen2-Audio or, by `--architecture AudioFlamingo3`, an Audio Flamingo 3 is made of Whisper's encoder and the first
blocks of the language model (`host.py`), and gets a memory and a readout by label words. Voxtral does not fit: its
processor knows no tokenizer but Tekken. It is trained for a few steps on composed dialogues, answers in text, is saved
in full and published as a dry run, and is loaded again in a process that does not import titans_mal: by its own code,
as `AutoModelForMultimodalLM` and as `pipeline("audio-emotion")`. Both processes must give the same scores.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import torch
import typer
from compose import write_dialogues
from dialogues import Composer
from host import write_recipe
from host_parts import ARCHITECTURES, make_host
from voices import Voices
from voices_reader import read_voices

from titans_mal import (
    AudioEmotionPipeline,
    AutoModelForAudioEmotion,
    ConversationMemoryCache,
    ConversationTrainer,
    ConversationTrainingArguments,
    TitansMemoryConfig,
    choose_trained_parts,
    load_conversations,
    publish_folder,
)
from titans_mal.cli.messages import errors_in_one_line


# Run in a process of its own: what it knows of the model is in the repository.
REMOTE = """
import json, sys
from transformers import AutoModelForMultimodalLM, pipeline
folder, *turns = sys.argv[1:]
model = AutoModelForMultimodalLM.from_pretrained(folder, trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules."), type(model)
assert "titans_mal" not in sys.modules
answers = pipeline("audio-emotion", model=folder, trust_remote_code=True)(turns)
print("answers:" + json.dumps([turn["scores"] for turn in answers]))
"""


def composed(voices: Voices, folder: Path, *, train: int, test: int, turns: int) -> None:
    """Write dialogues of two speakers each with emotions at random; the last speakers are tested."""
    speakers, emotions = voices.arrays(voices.labels)
    numbers = range(len(voices.speakers))
    allowed = {"train": numbers[:-2], "test": numbers[-2:]}
    counts = {"train": train, "test": test}
    composers = {
        split: Composer(speakers, emotions, some, seed=(0, number))
        for number, (split, some) in enumerate(allowed.items())
    }
    dialogues = [
        (split, composers[split].random(turns=turns)) for split, count in counts.items() for _ in range(count)
    ]
    write_dialogues(voices, dialogues, voices.labels, folder)


def trained(host: Path, labels: list[str], table, *, steps: int, output: Path):
    """The host with a memory on its first block, trained for some steps."""
    model = AutoModelForAudioEmotion.from_base(
        host, id2label=dict(enumerate(labels)), memory_config=TitansMemoryConfig(layers=[0])
    )
    choose_trained_parts(model)
    arguments = ConversationTrainingArguments(
        output_dir=str(output),
        seed=0,
        logging_steps=1,
        max_steps=steps,
        per_device_train_batch_size=1,
        window=4,
        save_strategy="no",
        report_to="none",
    )
    ConversationTrainer(model, arguments, processor=model.processor, train_dataset=table).train()
    return model.eval()


def loaded_by_its_own_code(folder: Path, turns: list[str]) -> list[dict[str, float]]:
    """The scores of turns, in a process that does not import titans_mal."""
    done = subprocess.run([sys.executable, "-c", REMOTE, str(folder), *turns], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"The repository does not load by its own code: {done.stderr.strip()}")
    return json.loads(done.stdout.partition("answers:")[2])


def main(
    whisper: Annotated[str, typer.Option(help="Folder or Hub repo of a Whisper checkpoint.")],
    language_model: Annotated[
        str, typer.Option(help="Folder or Hub repo of a language model with the architecture of Llama.")
    ],
    voices: Annotated[
        Path,
        typer.Option(
            help="Folder of RAVDESS or EmoDB, or with a metadata.csv of the columns file_name, speaker, emotion."
        ),
    ],
    output: Annotated[Path, typer.Option(help="Folder for the host, the dialogues and the repository.")],
    architecture: Annotated[
        str, typer.Option(help=f"Architecture of the host: {', '.join(ARCHITECTURES)}.")
    ] = "Qwen2Audio",
    blocks: Annotated[int, typer.Option(help="Number of blocks of the language model to keep.")] = 2,
    steps: Annotated[int, typer.Option(help="Number of training steps.")] = 4,
    turns: Annotated[int, typer.Option(help="Number of turns of each dialogue.")] = 4,
    license: Annotated[
        str, typer.Option(help="Licence of the model, which the licence of the voices must allow.")
    ] = "cc-by-nc-sa-4.0",
) -> None:
    """Make the host, train, answer, publish as a dry run, load by the repository's own code, and compare."""
    if architecture not in ARCHITECTURES:
        raise typer.BadParameter(f"--architecture must be one of {list(ARCHITECTURES)}, got {architecture!r}.")
    corpus = read_voices(voices)
    composed(corpus, output / "dialogues", train=8, test=1, turns=turns)
    data = load_conversations(output / "dialogues", label_set=corpus.labels)
    make_host(whisper, language_model, blocks, output / "host", architecture=architecture)
    model = trained(output / "host", corpus.labels, data["train"], steps=steps, output=output / "training")

    files = [turn["audio"]["path"] for turn in data["test"]]
    cache = ConversationMemoryCache(model.config)
    with torch.inference_mode():
        inputs = model.prepare_turn(model.processor, files[0])
        tokens = model.generate(**inputs, memory_cache=cache, max_new_tokens=8, do_sample=False)
    answer = model.processor.tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    print(f"answer to the first turn: {answer!r}; turns in memory: {cache.turns.tolist()}")

    repository = output / "repository"
    model.config.adapter_only = False
    model.save_pretrained(repository)
    write_recipe(repository, corpus)
    publication = publish_folder(repository, "org/real-voices", dry_run=True, license=license, language=["en"])
    print(f"published as a dry run: {len(publication.files)} files")

    here = [turn["scores"] for turn in AudioEmotionPipeline(model=model, processor=model.processor)(files)]
    there = loaded_by_its_own_code(repository, files)
    largest = max(abs(one[label] - other[label]) for one, other in zip(here, there) for label in one)
    print(f"largest difference of probabilities, loaded by its own code: {largest:.1e}")
    if largest > 1e-4:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(errors_in_one_line()(main))
