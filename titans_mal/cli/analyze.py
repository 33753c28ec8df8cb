"""`titans-mal analyze`: print the emotion of each turn, and write JSON and a timeline."""

from __future__ import annotations

import warnings
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import typer
from safetensors import SafetensorError

from ..export import check_labels, choose_label
from ..progress import with_progress
from ..quickstart import TINY_CHECKPOINT
from .analyze_batch import analyze_batch
from .analyze_inputs import channel_turns, check_speaker_options, turns_of, with_speakers
from .analyze_outputs import check_outputs, draw_timelines, write_results
from .follow import follow_stream
from .messages import console, errors, errors_in_one_line, warn
from .options import Model


def analyze(
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="INPUT...",
            help="A folder with metadata.csv; audio files, one per turn, in order; or one recording, which is split "
            "by --segments, by --channels or at pauses.",
        ),
    ] = None,
    segments: Annotated[
        Path | None,
        typer.Option(help="File that says who speaks when in the recording: .rttm, .csv, or whisperX's .json."),
    ] = None,
    channels: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Comma-separated speakers of a recording with one speaker per channel, as in caller,agent. Each "
            "channel is split at pauses.",
        ),
    ] = None,
    crosstalk: Annotated[
        float | None,
        typer.Option(
            metavar="DB",
            help="With --channels: ignore audio that is this many dB weaker than another channel, as crosstalk. "
            "Default: 15.",
        ),
    ] = None,
    model: Model = None,
    format: Annotated[
        str, typer.Option(help="Output format: table, json, jsonl, csv, rttm, vtt or textgrid.")
    ] = "table",
    output: Annotated[Path | None, typer.Option(help="Write the output in --format to this file.")] = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="Also write the turns as JSON to this file.")] = None,
    timeline: Annotated[
        Path | None,
        typer.Option(
            help="Draw the timeline to this file (.png, .svg, .pdf or .html). For several conversations, one file "
            "each is written, named as in NAME_ID.png."
        ),
    ] = None,
    plotly_source: Annotated[
        str,
        typer.Option(
            "--plotly",
            help="Where an .html timeline loads the Plotly script from: embedded (5 MB inside the file), directory "
            "(plotly.min.js in the same folder) or cdn (the internet, whenever the page is opened).",
        ),
    ] = "embedded",
    labels: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated labels to choose from, as in neutral,sad. Default: all labels of the model."
        ),
    ] = None,
    unknown_below: Annotated[
        float, typer.Option(help="Label a turn 'unknown' if its probability is below this, from 0 to 1.")
    ] = 0.0,
    split_long: Annotated[
        bool,
        typer.Option(
            "--split-long",
            help="Split turns longer than the host's audio window into several, at pauses. Default: score only their "
            "beginning, with a warning.",
        ),
    ] = False,
    no_memory: Annotated[bool, typer.Option("--no-memory", help="Score every turn without memory.")] = False,
    both: Annotated[
        bool, typer.Option("--both", help="Score with and without memory, and show both in all outputs.")
    ] = False,
    follow: Annotated[
        bool,
        typer.Option("--follow", help="Score raw audio from standard input (16-bit integers, mono) as it arrives."),
    ] = False,
    sampling_rate: Annotated[int, typer.Option(help="With --follow: sampling rate of the audio, in Hz.")] = 16_000,
    speaker: Annotated[
        str | None, typer.Option(help="Name of the only speaker, with --follow or for a recording without segments.")
    ] = None,
    speakers_by: Annotated[
        str | None,
        typer.Option(
            metavar="DIR_OR_REPO",
            help="Distinguish the speakers of one recording without segments by their voices, using this model for "
            "speaker verification, such as microsoft/wavlm-base-plus-sv.",
        ),
    ] = None,
    max_speakers: Annotated[
        int | None, typer.Option(min=1, help="With --speakers-by: maximal number of speakers. Default: no limit.")
    ] = None,
    speaker_threshold: Annotated[
        float | None,
        typer.Option(
            help="With --speakers-by: cosine similarity above which two turns are by the same speaker. The default, "
            "0.86, is not calibrated; titans_mal.live.speakers.fit_threshold fits it to turns of known speakers.",
        ),
    ] = None,
    batch: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER_OR_LIST",
            help="Score many recordings: all audio files of a folder, or those listed in a text file, one path per "
            "line. Each is split by the .rttm file of the same name beside it, by --channels, or at pauses.",
        ),
    ] = None,
    output_dir: Annotated[
        Path | None,
        typer.Option(
            help="With --batch: folder for one JSON file per recording, summary.csv and problems.csv. A stopped run "
            "resumes from it."
        ),
    ] = None,
    num_processes: Annotated[int, typer.Option(min=1, help="With --batch: number of processes.")] = 1,
) -> None:
    """Print the emotion of each turn; optionally write files and draw a timeline."""
    wanted = None if labels is None else [label.strip() for label in labels.split(",")]
    with errors_in_one_line(SafetensorError, ImportError):
        if follow:
            _check_follow(inputs, segments, output, json_out, timeline, no_memory, both, format=format)
            chosen: dict[str, Any] = {"labels": wanted, "unknown_below": unknown_below, "split_long": split_long}
            follow_stream(model or tiny_checkpoint(), sampling_rate, speaker, format, **chosen)
            return
        if batch is not None:
            others = (inputs, segments, crosstalk, output, json_out, timeline, no_memory, both, speaker, speakers_by)
            _check_batch(*others, format=format)
            analyze_batch(
                batch,
                output_dir,
                model or tiny_checkpoint(),
                num_processes=num_processes,
                channels=channels,
                labels=wanted,
                unknown_below=unknown_below,
                split_long=split_long,
            )
            return
        check_speaker_options(speaker, segments, channels, crosstalk, speakers_by, max_speakers, speaker_threshold)
        if not inputs:
            raise ValueError("No input was given: give a folder, audio files, a recording, or --follow.")
        check_outputs(json_out, timeline, output, format=format, plotly_source=plotly_source)
        turns = channel_turns(inputs, channels, crosstalk) if channels else list(turns_of(inputs, segments, speaker))
        if speakers_by is not None:
            turns = with_speakers(turns, speakers_by, max_speakers, speaker_threshold)
        pipe = _load(model or tiny_checkpoint(), wanted, unknown_below)
        scored = _analyze(turns, pipe, memory=not no_memory, split_long=split_long)
        usable = [turn for turn, results in zip(turns, scored) if results]
        without = _analyze(usable, pipe, memory=False, split_long=split_long) if both else None
        turns = [turn for turn, results in zip(turns, scored) for _ in results]
        results = [_chosen(turn, wanted, unknown_below) for turn in chain(*scored)]
        alone = None if without is None else [_chosen(turn, wanted, unknown_below) for turn in chain(*without)]
        write_results(results, turns, alone, format=format, output=output, json_out=json_out)
        if timeline is not None:
            drawn = [{**result, "emotion": turn.get("emotion")} for result, turn in zip(results, turns)]
            for path in draw_timelines(drawn, alone, timeline, plotly_source):
                (console if format == "table" else errors).print(f"Timeline: {path}", soft_wrap=True)


def _chosen(turn: dict, labels: list[str] | None, unknown_below: float) -> dict:
    """A turn with its label chosen among some of the labels."""
    label, score, scores = choose_label(turn["scores"], labels=labels, unknown_below=unknown_below)
    return {**turn, "label": label, "score": score, "scores": scores}


def tiny_checkpoint() -> str:
    """The model that is used if none is given."""
    warn(
        f"no --model was given, so the tiny checkpoint is used ({TINY_CHECKPOINT}). It was trained on synthetic "
        "voices only and cannot recognise real emotions: for real speech, pass --model with the folder or Hub repo "
        "of a model trained on real speech, for example by titans-mal train."
    )
    return str(TINY_CHECKPOINT)


def _check_batch(*others, format: str) -> None:
    if any(others) or format != "table":
        raise ValueError(
            "--batch can be combined only with --output-dir, --num-processes, --model, --channels, --labels, "
            "--unknown-below and --split-long: remove the other options."
        )


def _check_follow(*others, format: str) -> None:
    if any(others) or format not in ("table", "jsonl"):
        raise ValueError(
            "--follow reads standard input, uses the memory, and prints a table or, with --format jsonl, one line per "
            "turn: remove the other inputs and outputs."
        )


def _load(model_name: str, labels: list[str] | None, unknown_below: float):
    """The pipeline of a model, which must know the labels to choose among."""
    from transformers import AutoProcessor

    from titans_mal import AudioEmotionPipeline, AutoModelForAudioEmotion

    from ..modeling.configuration_titans_mal import read_labels

    model = AutoModelForAudioEmotion.from_pretrained(model_name)
    check_labels(read_labels(model.config), labels, unknown_below)
    return AudioEmotionPipeline(model=model, processor=AutoProcessor.from_pretrained(model_name))


def _analyze(turns: list[dict], pipe, *, memory: bool, split_long: bool = False) -> list[list[dict]]:
    """Process each conversation turn by turn.

    Returns:
        The results of each turn: one, several if it is split, and none if it is unusable, which a warning names.

    Raises:
        ValueError: if no turn can be used.
    """
    from titans_mal import ConversationMemoryCache

    from ..modeling.turn_rules import CutTurnWarning

    caches: dict[str | None, ConversationMemoryCache] = {}
    results, problems = [], []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        for turn in with_progress(turns, total=len(turns), description="turns"):
            cache = caches.setdefault(turn.get("conversation_id"), ConversationMemoryCache(pipe.model.config))
            try:
                results.append(pipe([turn], memory_cache=cache, memory=memory, split_long=split_long))
            except (OSError, ValueError) as error:
                results.append([])
                problems.append(error)
    if len(problems) == len(turns):
        raise problems[0]
    if problems:
        warn(f"{len(problems)} of {len(turns)} turns are unusable and were skipped: {'; '.join(map(str, problems))}")
    cut = [one.message for one in caught if isinstance(one.message, CutTurnWarning)]
    if cut:
        warn(CutTurnWarning([turn for message in cut for turn in message.turns], cut[0].max_seconds))
    for message in dict.fromkeys(str(one.message) for one in caught if one.category is UserWarning):
        warn(message)
    return results
