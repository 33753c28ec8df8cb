"""`titans-mal train` and `titans-mal ablate`: train one model, or one for each of several memory configurations."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import typer
from safetensors import SafetensorError

from .messages import console, errors_in_one_line
from .options import as_label_set


ABLATION_FILE = "ablation.md"
# Their options are defined by `run_options` and transformers, not by typer.
OPTIONS = {"allow_extra_args": True, "ignore_unknown_options": True}


def train(context: typer.Context) -> None:
    """Train a memory, and optionally a LoRA, on conversations; save and evaluate it. See `titans-mal train --help`."""
    raise typer.Exit(train_once(context.args))


def main(*, program: str) -> int:
    """Run `titans-mal train` as a script, for launchers; returns the exit status."""
    try:
        return train_once(sys.argv[1:], program=program)
    except typer.Exit as end:
        return end.exit_code


def train_once(given: Sequence[str], *, program: str = "titans-mal train") -> int:
    """Train once with the given command-line arguments; returns the exit status.

    Raises:
        typer.Exit: for invalid options, data or model, after printing one line with the reason.
    """
    from ..evaluation.markdown import report_markdown
    from ..processes import end_processes, process_state
    from ..training.run import run_training
    from ..training.run_options import parse_options

    with errors_in_one_line(SafetensorError, ImportError):
        model, data, how, arguments = parse_options(given, program=program)
        status, report = run_training(model, data, how, arguments, label_set=as_label_set(data.label_set))
        if report is not None and process_state().is_main_process:
            console.print(report_markdown(report.content), soft_wrap=True)
        end_processes()
    return status


def ablate(context: typer.Context) -> None:
    """Train once for each --memory-layers and each --memory, and compare the reports in one table.

    All other options are those of `titans-mal train`. Runs in the output folder that are finished are not repeated;
    they must have the same options.
    """
    raise typer.Exit(sweep(context.args))


def sweep(given: Sequence[str]) -> int:
    """Train with several memory configurations from command-line arguments; returns the exit status.

    Raises:
        typer.Exit: as `train_once`.
    """
    from ..evaluation.compare import comparison_markdown
    from ..evaluation.report import EvaluationReport
    from ..processes import end_processes, process_state
    from ..training.run import REPORT_FOLDER, run_training
    from ..training.run_options import parse_options
    from ..training.run_report import check_same_options

    parser = argparse.ArgumentParser(prog="titans-mal ablate", add_help=False, allow_abbrev=False)
    parser.add_argument("--memory-layers", "--memory_layers", nargs="+", type=int, action="append", required=True)
    parser.add_argument("--memory", action="append")
    with errors_in_one_line(SafetensorError, ImportError):
        if {"--help", "-h"} & {*given}:
            repeated = "--memory-layers and --memory may be repeated: each combination is trained once."
            parse_options(given, program="titans-mal ablate", description=repeated)
        swept, rest = parser.parse_known_args(given)
        # Other options need a new memory, whose layers are then those of each run.
        first = ["--memory-layers", *map(str, swept.memory_layers[0])]
        model, data, how, arguments = parse_options([*rest, *first], program="titans-mal ablate")
        output = Path(arguments.output_dir)
        models = [
            replace(model, memory_layers=layers, memory=memory)
            for layers in swept.memory_layers
            for memory in swept.memory or ["{}"]
        ]
        runs = {output / _name(options.memory_layers or (), options.memory_fields): options for options in models}
        reports = []
        for number, (folder, options) in enumerate(runs.items(), start=1):
            own = replace(arguments, output_dir=str(folder))
            if (folder / REPORT_FOLDER / "report.json").is_file():
                check_same_options(asdict(options) | asdict(data), own, is_longer=False)
            else:
                process_state().print(f"Training {number} of {len(runs)}: {folder}")
                status, report = run_training(options, data, how, own, label_set=as_label_set(data.label_set))
                if status:
                    return status
                if report is None:
                    raise ValueError(f"{data.dataset} has no test split: draw one with --split-by and --test-share.")
            reports.append(EvaluationReport.load(folder / REPORT_FOLDER))
        if process_state().is_main_process:
            table = comparison_markdown(reports)
            (output / ABLATION_FILE).write_text(table, encoding="utf-8")
            console.print(table, soft_wrap=True)
            console.print(f"Table: {output / ABLATION_FILE}", soft_wrap=True)
        end_processes()
    return 0


def _name(layers: Sequence[int], fields: dict) -> str:
    """Folder name of a run: layers-8-16_depth-2."""
    return "_".join(["layers-" + "-".join(map(str, layers)), *(f"{name}-{fields[name]}" for name in sorted(fields))])
