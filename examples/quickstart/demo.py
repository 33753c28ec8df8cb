"""Analyse the shipped conversation with the shipped checkpoint, with memory and without.

titans-mal demo, or python examples/quickstart/demo.py [FOLDER]
"""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console
from transformers import AutoProcessor

from titans_mal import AudioEmotionPipeline, AutoModelForAudioEmotion, draw_timeline, load_conversations
from titans_mal.cli.analyze_outputs import turn_table
from titans_mal.quickstart import CONVERSATION, TINY_CHECKPOINT


def main(folder: str | Path = ".") -> Path:
    """Print each turn's emotion and how many are right, and draw `timeline.png` into a folder.

    Returns:
        The picture.
    """
    model = AutoModelForAudioEmotion.from_pretrained(TINY_CHECKPOINT)
    processor = AutoProcessor.from_pretrained(TINY_CHECKPOINT)
    pipe = AudioEmotionPipeline(model=model, processor=processor)

    conversation = load_conversations(CONVERSATION, label_set=model.config.labels)["test"]
    gold = [model.config.id2label[index] for index in conversation["emotion"]]
    turns = [{**row, "file": Path(row["audio"]["path"]).name} for row in conversation.remove_columns("emotion")]
    with_memory, without_memory = pipe(turns), pipe(turns, memory=False)

    console = Console()
    console.print(turn_table(with_memory, gold=gold, without_memory=without_memory))
    for name, results in (("memory on", with_memory), ("memory off", without_memory)):
        right = sum(turn["label"] == label for turn, label in zip(results, gold))
        console.print(f"{name}: {right} of {len(gold)} turns right ({right / len(gold):.0%})")
    with_gold, without_memory_with_gold = (
        [{**turn, "emotion": label} for turn, label in zip(results, gold)] for results in (with_memory, without_memory)
    )
    picture = draw_timeline(
        with_gold,
        Path(folder) / "timeline.png",
        turns_without_memory=without_memory_with_gold,
        title="A conversation of two synthetic voices",
    )
    console.print(f"Timeline: {picture}", soft_wrap=True)
    return picture


if __name__ == "__main__":
    main(*sys.argv[1:2])
