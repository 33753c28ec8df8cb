"""`titans-mal evaluate` and `titans-mal compare`: write reports, and compare them in one table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from safetensors import SafetensorError

from .messages import console, errors_in_one_line
from .options import (
    DataDir,
    EmoBox,
    Fold,
    LabelSet,
    SplitBy,
    SplitLonger,
    SplitSeed,
    TestShare,
    ValidationShare,
    labels_for,
)


def evaluate(
    model: Annotated[str, typer.Argument(help="A folder or Hub repo of a model with memory.")],
    data: Annotated[str, typer.Argument(help="A corpus, a folder with metadata.csv, or a Hub dataset.")],
    output: Annotated[Path, typer.Option(help="Folder for the report. A stopped run resumes from it.")],
    data_dir: DataDir = None,
    label_set: LabelSet = None,
    fold: Fold = None,
    emobox: EmoBox = None,
    split_longer_than: SplitLonger = None,
    split_by: SplitBy = None,
    test_share: TestShare = None,
    validation_share: ValidationShare = None,
    split_seed: SplitSeed = 0,
    split: Annotated[str, typer.Option(help="The split to evaluate.")] = "test",
    conditions: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated conditions to score: memory, memory_off, memory_half, reset, other_state, shuffled "
            "and, for a model with a LoRA, host and host_memory. Default: all."
        ),
    ] = None,
    readout: Annotated[
        str,
        typer.Option(
            help="How emotions are read from the host: logits (the configured readout) or text (a generated answer)."
        ),
    ] = "logits",
    max_new_tokens: Annotated[
        int, typer.Option(help="With --readout text: maximal number of generated tokens per turn.")
    ] = 8,
    batch_size: Annotated[int, typer.Option(help="Number of turns scored at once.")] = 16,
    dtype: Annotated[str, typer.Option(help="Precision of the host: auto, float32, bfloat16 or float16.")] = "auto",
    resamples: Annotated[int, typer.Option(help="Number of bootstrap resamples.")] = 1000,
    seed: Annotated[int, typer.Option(help="Random seed of the bootstrap and of the shuffled histories.")] = 0,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first unusable turn.")] = False,
) -> None:
    """Score whole conversations with memory and under control conditions, and write a report.

    `accelerate launch -m titans_mal.cli evaluate ...` distributes the conversations over processes.
    """
    from transformers import AutoProcessor

    from titans_mal import AutoModelForAudioEmotion, load_conversations

    from ..evaluation.evaluate_conversations import evaluate_conversations
    from ..evaluation.markdown import report_markdown
    from ..processes import end_processes, process_state

    with errors_in_one_line(SafetensorError):
        state = process_state()
        loaded = AutoModelForAudioEmotion.from_pretrained(model, dtype=dtype)
        loaded.to(state.device)
        wanted = labels_for(data, data_dir, label_set, loaded.config.labels)
        # The first process checks the files, and the others reuse its result.
        with state.main_process_first():
            conversations = load_conversations(
                data,
                data_dir=data_dir,
                label_set=wanted,
                fold=fold,
                emobox=emobox,
                split_longer_than=split_longer_than,
                split_by=split_by,
                test_share=test_share,
                validation_share=validation_share,
                split_seed=split_seed,
                strict=strict,
            )
        if split not in conversations:
            raise ValueError(f"{data} has no split {split!r}; it has {list(conversations)}.")
        report = evaluate_conversations(
            loaded,
            AutoProcessor.from_pretrained(model),
            conversations[split],
            output,
            train=conversations["train"] if split != "train" and "train" in conversations else None,
            conditions=None if conditions is None else conditions.split(","),
            batch_size=batch_size,
            readout=readout,
            max_new_tokens=max_new_tokens,
            resamples=resamples,
            seed=seed,
            problems=conversations.problems_of(split),
            strict=strict,
        )
        if state.is_main_process:
            console.print(report_markdown(report.content), soft_wrap=True)
            console.print(f"Report: {output / 'report.md'}", soft_wrap=True)
        end_processes()


def compare(
    reports: Annotated[list[Path], typer.Argument(metavar="REPORT...", help="Folders of evaluation reports.")],
    output: Annotated[
        Path | None,
        typer.Option(
            help="Write to this file instead of printing: .md for the whole comparison, .csv or .tex for its table of "
            "models."
        ),
    ] = None,
    paired: Annotated[
        bool,
        typer.Option(
            "--paired", help="Test two reports against each other on the same turns: the first minus the second."
        ),
    ] = False,
) -> None:
    """Compare reports of one protocol in one table: each report, the mean over a model's runs, and pooled folds."""
    from ..evaluation.compare import comparison_markdown, models_table, paired_markdown, paired_table
    from ..evaluation.protocol import check_comparable
    from ..evaluation.report_file import EvaluationReport

    with errors_in_one_line():
        if paired and len(reports) != 2:
            raise ValueError(f"--paired needs exactly two reports, got {len(reports)}.")
        suffix = ".md" if output is None else output.suffix
        if suffix not in (".md", ".csv", ".tex"):
            raise ValueError(f"--output must end in .md, .csv or .tex, got {output}.")
        loaded = [EvaluationReport.load(path) for path in reports]
        if suffix == ".md":
            text = paired_markdown(*loaded) if paired else comparison_markdown(loaded)
        else:
            check_comparable([report.content for report in loaded])
            table = paired_table(*loaded) if paired else models_table(loaded)
            text = table.csv() if suffix == ".csv" else table.latex()
        if output is None:
            console.print(text, soft_wrap=True)
        else:
            output.write_text(text, encoding="utf-8")
