"""Emotions of a conversation, turn by turn, with the memory of earlier turns and without it."""

from __future__ import annotations

import html
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import gradio as gr
from timeline import draw_figure
from transformers import pipeline


MODEL_ID = os.environ.get("MODEL_ID", "{{ repo_id }}")  # a repository of the Hub, or a folder
MODEL = f"`{MODEL_ID}`" if Path(MODEL_ID).is_dir() else f"[{MODEL_ID}](https://huggingface.co/{MODEL_ID})"
# Turns of synthetic voices, each named for its speaker: turn_00_A.wav.
EXAMPLES = sorted((Path(__file__).resolve().parent / "examples").glob("*.wav"))

INTRO = f"""# Emotions in a conversation, with and without memory

Add the turns of a conversation one after another, from a file or the microphone, or click on an example. Each turn is
scored twice: with the memory of earlier turns, and alone. *Surprise* is the error with which the memory predicted it.

Model: {MODEL}
"""
NOTES = """**Law.** In the European Union, it is prohibited to infer the emotions of people at work or in education,
except for medical or safety reasons: AI Act, Regulation (EU) 2024/1689, Article 5(1)(f).

**Your data.** The app stores no data: audio, pictures and downloads are temporary files, deleted within an hour.
"""
COLUMNS = ["turn", "speaker", "with memory", "without memory", "surprise"]
WAITING_COLUMNS = ["file", "speaker"]


class EmotionPipeline(Protocol):
    """The part of `AudioEmotionPipeline` that the page uses; its code is in the model's repository."""

    model: Any
    processor: Any

    def __call__(self, turn: dict[str, Any], **kwargs: Any) -> dict[str, Any]: ...

    def seconds_of(self, audio: bytes) -> float: ...


@dataclass(frozen=True)
class Conversation:
    """The turns so far, scored with memory and without it, and the memory's cache; never changed in place."""

    turns: tuple[dict[str, Any], ...] = ()
    turns_without_memory: tuple[dict[str, Any], ...] = ()
    cache: Any = None

    def with_turn(self, pipe: EmotionPipeline, path: str, speaker: str | None) -> Conversation:
        """The conversation with one more turn.

        Raises:
            ValueError: for audio that cannot be used.
        """
        cache = pipe.model.memory_cache_class(pipe.model.config) if self.cache is None else self.cache.snapshot()
        audio = Path(path).read_bytes()
        turn = {"audio": audio, "file": Path(path).name, "turn_index": len(self.turns), "speaker": speaker}
        alone, scored = pipe(turn, memory=False), pipe(turn, memory_cache=cache)
        start = self.turns[-1]["end"] if self.turns else 0.0
        times = {"start": start, "end": round(start + pipe.seconds_of(audio), 3)}
        return Conversation((*self.turns, scored | times), (*self.turns_without_memory, alone | times), cache)

    @property
    def speakers(self) -> list[str | None]:
        """The speaker of each turn."""
        return [turn["speaker"] for turn in self.turns]

    def rows(self) -> list[list[str]]:
        """The table, with `COLUMNS`."""
        return [
            [str(turn["turn_index"]), turn["speaker"] or "", cell_of(turn), cell_of(alone), f"{turn['surprise']:.2f}"]
            for turn, alone in zip(self.turns, self.turns_without_memory)
        ]

    def to_json(self) -> str:
        """The turns, each with its scores without memory."""
        turns = [
            turn | {"without_memory": {name: alone[name] for name in ("label", "score", "scores")}}
            for turn, alone in zip(self.turns, self.turns_without_memory)
        ]
        return json.dumps(turns, indent=2, ensure_ascii=False)


def next_speaker(speakers: Sequence[str | None]) -> str:
    """Who is likely to talk next: the last one who is not the present speaker."""
    present, *earlier = [*reversed(speakers)] or ["B"]
    return next((name for name in earlier if name not in (None, present)), "A" if present != "A" else "B")


def cell_of(turn: dict[str, Any]) -> str:
    """The emotion of a turn and its probability, and the values of dimensions."""
    label = [] if turn["label"] is None else [f"{turn['label']} {turn['score']:.0%}"]
    return ", ".join([*label, *(f"{name} {value:.2f}" for name, value in turn.get("values", {}).items())])


class Page:
    """The page, whose methods answer its buttons.

    Args:
        pipe: scores the turns.
    """

    def __init__(self, pipe: EmotionPipeline):
        self._pipe = pipe
        limit = pipe.model.max_turn_seconds(pipe.processor)
        title, audio_label = "Emotions in a conversation", "Turn" if limit is None else f"Turn (first {limit:g} s)"
        with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(600, 3000)) as self.app:
            self._conversation = gr.State(Conversation(), time_to_live=3000)
            self._waiting = gr.State([])
            gr.Markdown(INTRO)
            with gr.Row():
                with gr.Column(scale=2, min_width=320):
                    self._add_inputs(audio_label)
                with gr.Column(scale=5, min_width=320):
                    self._add_results()
            gr.Markdown(NOTES)
            self._connect()

    def _add_inputs(self, audio_label: str) -> None:
        self._audio = gr.Audio(label=audio_label, type="filepath", buttons=[], elem_id="audio")
        self._speaker = gr.Dropdown(["A", "B"], label="Speaker (type any name)", allow_custom_value=True)
        self._add = gr.Button("Add turn", variant="primary")
        self._several = gr.UploadButton("Choose several files", file_count="multiple", file_types=["audio"])
        self._waiting_table = gr.Dataframe(
            headers=WAITING_COLUMNS, label="To be added (speakers can be changed)", type="array",
            visible=False, interactive=True, static_columns=[0], column_count=2,
        )  # fmt: skip
        self._add_all = gr.Button("Add these turns", visible=False)
        self._reset = gr.Button("New conversation")
        if EXAMPLES:
            examples = [[str(path), path.stem.rpartition("_")[2]] for path in EXAMPLES]
            gr.Examples(examples, [self._audio, self._speaker], label="Examples (synthetic voices)")

    def _add_results(self) -> None:
        self._picture = gr.Image(show_label=False, interactive=False, buttons=["download", "fullscreen"])
        self._table = gr.Dataframe(headers=COLUMNS, label="Turns", interactive=False)
        self._download = gr.DownloadButton("Download JSON", interactive=False)

    def _connect(self) -> None:
        """Connect buttons and methods. One turn is scored at a time, since several conversations share the model."""
        conversation, waits = self._conversation, [self._waiting, self._waiting_table, self._add_all]
        outputs = [conversation, self._table, self._picture, self._download, self._speaker, self._audio, *waits]
        one, all_waiting = (
            [conversation, self._audio, self._speaker],
            [conversation, self._waiting, self._waiting_table],
        )
        self._add.click(self.add_one, one, outputs, concurrency_id="model")
        self._several.upload(self.wait, [conversation, self._several, self._speaker], waits)
        self._add_all.click(self.add_waiting, all_waiting, outputs, concurrency_id="model")
        self._reset.click(lambda: self.show(Conversation()), None, outputs)

    def show(self, conversation: Conversation) -> list[Any]:
        """The results of a conversation, and empty inputs."""
        picture = download = None
        if conversation.turns:
            # Inside of Gradio's own folder, files are served as they are and deleted in time.
            folder = Path(tempfile.mkdtemp(dir=self.app.GRADIO_CACHE))
            download, picture = folder / "conversation.json", folder / "timeline.png"
            download.write_text(conversation.to_json(), encoding="utf-8")
            draw_figure(conversation.turns, picture, turns_without_memory=conversation.turns_without_memory)
        button = gr.DownloadButton(value=download, interactive=download is not None)
        suggested = next_speaker(conversation.speakers)
        return [conversation, conversation.rows(), picture, button, suggested, None, *self.show_waiting([], [])]

    def show_waiting(self, paths: list[str], speakers: list[str]) -> list[Any]:
        """The table of files that wait, and its button."""
        rows = [[Path(path).name, speaker] for path, speaker in zip(paths, speakers)]
        table = gr.Dataframe(value=rows, headers=WAITING_COLUMNS, visible=bool(paths))
        return [paths, table, gr.Button(visible=bool(paths))]

    def wait(self, conversation: Conversation, paths: list[str], speaker: str | None) -> list[Any]:
        """Show files before they are added, each with its likely speaker."""
        speakers: list[str] = []
        for _ in paths:
            named = (speaker or "").strip() if not speakers else ""
            speakers.append(named or next_speaker([*conversation.speakers, *speakers]))
        return self.show_waiting(paths, speakers)

    def add_turns(self, conversation: Conversation, turns: list[tuple[str, str | None]]) -> Any:
        """Add all files as turns; if one cannot be used, add none."""
        try:
            for path, speaker in turns:
                conversation = conversation.with_turn(self._pipe, path, (speaker or "").strip() or None)
        except ValueError as error:
            # After a gr.Error, "Error" would cover the table and the picture.
            gr.Warning(f"Nothing was added. {html.escape(str(error))}")
            return gr.skip()
        return self.show(conversation)

    def add_one(self, conversation: Conversation, path: str | None, speaker: str | None) -> Any:
        """Add the file or the recording."""
        if not path:
            gr.Warning("Nothing was added. There is no audio yet: choose a file or record one.")
            return gr.skip()
        return self.add_turns(conversation, [(path, speaker)])

    def add_waiting(self, conversation: Conversation, paths: list[str], rows: list[list[str]]) -> Any:
        """Add the files that wait, with the speakers in their table."""
        return self.add_turns(conversation, [(path, speaker) for path, (_, speaker) in zip(paths, rows)])


def launch(pipe: EmotionPipeline, **kwargs: Any) -> None:
    """Serve the page until the process is stopped; `kwargs` are those of Gradio's `launch`."""
    Page(pipe).app.launch(footer_links=["gradio"], max_file_size="20mb", run_history=False, **kwargs)


if __name__ == "__main__":
    # A task of the repository, which transformers does not list.
    launch(pipeline("audio-emotion", model=MODEL_ID, trust_remote_code=True))  # type: ignore[call-overload]
