"""`titans-mal analyze --batch`: an archive of recordings."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import typer

from .messages import errors, warn


def analyze_batch(
    archive: Path,
    output_dir: Path | None,
    model_name: str,
    *,
    num_processes: int,
    channels: str | None,
    labels: list[str] | None,
    unknown_below: float,
    split_long: bool = False,
) -> None:
    """Score all recordings of a folder or a list, except those that already have a result in the output folder.

    Raises:
        ValueError: without an output folder, or as `find_recordings` and `ArchiveRun`.
    """
    if output_dir is None:
        raise ValueError("--batch needs --output-dir, the folder for the results.")
    if num_processes > 1 and "WORLD_SIZE" not in os.environ:
        _launch(num_processes)
        return
    from transformers import AutoProcessor

    from titans_mal import AutoModelForAudioEmotion, ConversationPool

    from ..archives import ArchiveRun, analyze_archive, find_recordings
    from ..evaluation.protocol import model_of
    from ..processes import end_processes, process_state

    state = process_state()
    speakers = None if channels is None else [name.strip() for name in channels.split(",")]
    recordings = find_recordings(archive)
    settings = {"model": model_name, "channels": speakers, "labels": labels, "unknown_below": unknown_below}
    settings |= {"split_long": True} if split_long else {}  # archives of earlier versions can be continued
    model = AutoModelForAudioEmotion.from_pretrained(model_name)
    settings["weights"] = model_of(model)["weights"]
    with state.main_process_first():
        run = ArchiveRun(output_dir, settings)
    model.to(state.device)
    processor = AutoProcessor.from_pretrained(model_name)
    with ConversationPool(model, processor, labels=labels, unknown_below=unknown_below) as pool:
        mine = recordings[state.process_index :: state.num_processes]
        analyze_archive(mine, pool, run, speakers=speakers, split_long=split_long)
    state.wait_for_everyone()
    if state.is_main_process:
        done, problems = run.write_tables(recordings)
        errors.print(f"{done} recordings: {output_dir / 'summary.csv'}", soft_wrap=True)
        if problems:
            warn(f"{problems} problems are listed in {output_dir / 'problems.csv'}")
    end_processes()


def _launch(num_processes: int) -> None:
    """Run the same command in several processes with accelerate."""
    # accelerate starts several processes on a CPU under the name --multi_gpu too.
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    command += ["--num_processes", str(num_processes), "--num_machines", "1", "--main_process_port", "0"]
    command += ["--mixed_precision", "no", "--dynamo_backend", "no", "-m", "titans_mal.cli", *sys.argv[1:]]
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // num_processes))}
    done = subprocess.run(command, env={**threads, **os.environ})
    if done.returncode:
        raise typer.Exit(done.returncode)
