"""Analyse the shipped conversation with the shipped checkpoint, with memory and without.

python examples/quickstart/demo.py
"""

from pathlib import Path

from rich.console import Console
from transformers import AutoProcessor

from titans_mal import AudioEmotionPipeline, AutoModelForAudioEmotion, draw_timeline, load_conversations
from titans_mal.cli.analyze import turn_table


HERE = Path(__file__).parent


def main() -> None:
    checkpoint = HERE / "tiny-qwen2-audio-mal"
    model = AutoModelForAudioEmotion.from_pretrained(checkpoint)
    processor = AutoProcessor.from_pretrained(checkpoint)
    pipe = AudioEmotionPipeline(model=model, processor=processor)

    conversation = load_conversations(HERE / "conversation", label_set=model.config.labels)["test"]
    gold = [model.config.id2label[index] for index in conversation["emotion"]]
    turns = [{**row, "file": Path(row["audio"]["path"]).name} for row in conversation.remove_columns("emotion")]
    with_memory, without_memory = pipe(turns), pipe(turns, memory=False)

    console = Console()
    console.print(turn_table(with_memory, gold=gold, without_memory=without_memory))
    for name, results in (("memory on", with_memory), ("memory off", without_memory)):
        right = sum(turn["label"] == label for turn, label in zip(results, gold))
        console.print(f"{name}: {right} of {len(gold)} turns right ({right / len(gold):.0%})")
    told, told_without = (
        [{**turn, "emotion": label} for turn, label in zip(results, gold)] for results in (with_memory, without_memory)
    )
    picture = draw_timeline(told, HERE / "timeline.png", turns_without_memory=told_without)
    console.print(f"Timeline: {picture}", soft_wrap=True)


if __name__ == "__main__":
    main()
