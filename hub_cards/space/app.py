"""Emotions of a conversation, turn by turn, heard with the memory of what was said before and without it."""

from __future__ import annotations

import html
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import gradio as gr
from timeline import draw_figure
from transformers import pipeline


MODEL_ID = os.environ.get("MODEL_ID", "{{ repo_id }}")  # a repository of the Hub, or a folder

INTRO = """# Emotions in a conversation, with and without memory

Give the turns of a conversation one after the other, by file or by microphone. The model hears each turn twice: with
its memory of the turns before, and alone. *Surprise* says how badly the memory had predicted a turn.
"""
NOTES = """**The law.** In the European Union it is prohibited to infer the emotions of people at work or in education,
except for medical or safety reasons: AI Act, Regulation (EU) 2024/1689, Article 5(1)(f).

**Your data.** The app keeps none: sounds, pictures and downloads are temporary files, which it deletes within an hour.
"""
COLUMNS = ["turn", "speaker", "with memory", "without memory", "surprise"]


class EmotionPipeline(Protocol):
    """What the page uses of an `AudioEmotionPipeline`, whose code comes with the model."""

    model: Any
    processor: Any

    def __call__(self, turn: dict[str, Any], **kwargs: Any) -> dict[str, Any]: ...

    def seconds_of(self, audio: bytes) -> float: ...


@dataclass(frozen=True)
class Conversation:
    """The turns heard so far, with memory and without it, and the memory's cache; never changed in place."""

    turns: tuple[dict[str, Any], ...] = ()
    turns_without_memory: tuple[dict[str, Any], ...] = ()
    cache: Any = None

    def hear(self, pipe: EmotionPipeline, path: str, speaker: str | None) -> Conversation:
        """The conversation with one more turn.

        Raises:
            ValueError: for sound that cannot be used.
        """
        cache = pipe.model.memory_cache_class(pipe.model.config) if self.cache is None else self.cache.snapshot()
        sound = Path(path).read_bytes()
        turn = {"audio": sound, "file": Path(path).name, "turn_index": len(self.turns), "speaker": speaker}
        alone, heard = pipe(turn, memory=False), pipe(turn, memory_cache=cache)
        start = self.turns[-1]["end"] if self.turns else 0.0
        times = {"start": start, "end": round(start + pipe.seconds_of(sound), 3)}
        return Conversation((*self.turns, heard | times), (*self.turns_without_memory, alone | times), cache)

    def next_speaker(self) -> str:
        """Who is likely to talk next: the last one who is not the present speaker."""
        speakers = [turn["speaker"] for turn in reversed(self.turns)] or ["B"]
        return next((name for name in speakers if name not in (None, speakers[0])), "A" if speakers[0] != "A" else "B")

    def rows(self) -> list[list[str]]:
        """The table, with `COLUMNS`."""
        return [
            [str(turn["turn_index"]), turn["speaker"] or "", told(turn), told(alone), f"{turn['surprise']:.2f}"]
            for turn, alone in zip(self.turns, self.turns_without_memory)
        ]

    def to_json(self) -> str:
        """The turns, each with what was heard of it without memory."""
        turns = [
            turn | {"without_memory": {name: alone[name] for name in ("label", "score", "scores")}}
            for turn, alone in zip(self.turns, self.turns_without_memory)
        ]
        return json.dumps(turns, indent=2, ensure_ascii=False)


def told(turn: dict[str, Any]) -> str:
    """The emotion of a turn and its probability, and the values of dimensions."""
    label = [] if turn["label"] is None else [f"{turn['label']} {turn['score']:.0%}"]
    return ", ".join([*label, *(f"{name} {value:.2f}" for name, value in turn.get("values", {}).items())])


def build_app(pipe: EmotionPipeline) -> gr.Blocks:
    """The page."""
    limit = pipe.model.max_turn_seconds(pipe.processor)
    sound_label = "Turn" if limit is None else f"Turn (its first {limit:g} s are heard)"

    def show(conversation: Conversation) -> list[Any]:
        picture = download = None
        if conversation.turns:
            # Inside of Gradio's own folder, files are served as they are and deleted in time.
            folder = Path(tempfile.mkdtemp(dir=app.GRADIO_CACHE))
            download, picture = folder / "conversation.json", folder / "timeline.png"
            download.write_text(conversation.to_json(), encoding="utf-8")
            draw_figure(conversation.turns, picture, turns_without_memory=conversation.turns_without_memory)
        button = gr.DownloadButton(value=download, interactive=download is not None)
        return [conversation, conversation.rows(), picture, button, conversation.next_speaker(), None]

    def add_turns(conversation: Conversation, sounds: str | list[str] | None, speaker: str | None) -> Any:
        """All of the sounds become turns, or none."""
        heard = conversation
        try:
            if not sounds:
                raise ValueError("There is no sound yet: choose a file or record one.")
            for path in [sounds] if isinstance(sounds, str) else sounds:
                heard = heard.hear(pipe, path, (speaker or "").strip() or None)
                speaker = heard.next_speaker()
        except ValueError as error:
            # After a gr.Error, "Error" would cover the table and the picture.
            gr.Warning(f"Nothing was added. {html.escape(str(error))}")
            return gr.skip()
        return show(heard)

    with gr.Blocks(title="Emotions in a conversation", analytics_enabled=False, delete_cache=(600, 3000)) as app:
        conversation = gr.State(Conversation(), time_to_live=3000)
        gr.Markdown(INTRO)
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                sound = gr.Audio(label=sound_label, type="filepath", buttons=[], elem_id="sound")
                speaker = gr.Dropdown(["A", "B"], label="Speaker (type any name)", allow_custom_value=True)
                add = gr.Button("Add turn", variant="primary")
                several = gr.UploadButton("Add several files", file_count="multiple", file_types=["audio"])
                reset = gr.Button("New conversation")
            with gr.Column(scale=5, min_width=320):
                picture = gr.Image(show_label=False, interactive=False, buttons=["download", "fullscreen"])
                table = gr.Dataframe(headers=COLUMNS, label="Turns", interactive=False)
                download = gr.DownloadButton("Download JSON", interactive=False)
        gr.Markdown(NOTES)

        outputs = [conversation, table, picture, download, speaker, sound]
        # One turn at a time: several conversations share the model.
        add.click(add_turns, [conversation, sound, speaker], outputs, concurrency_id="model")
        several.upload(add_turns, [conversation, several, speaker], outputs, concurrency_id="model")
        reset.click(lambda: show(Conversation()), None, outputs)
    return app


def launch(pipe: EmotionPipeline, **kwargs: Any) -> None:
    """Serve the page until the process is stopped; `kwargs` are those of Gradio's `launch`."""
    app = build_app(pipe)
    app.launch(footer_links=["gradio"], max_file_size="20mb", run_history=False, **kwargs)


if __name__ == "__main__":
    # A task of the repository, which transformers does not list.
    launch(pipeline("audio-emotion", model=MODEL_ID, trust_remote_code=True))  # type: ignore[call-overload]
