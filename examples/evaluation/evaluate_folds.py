"""Evaluate one model for each fold of a corpus, and put the folds into one table.

    python examples/evaluation/evaluate_folds.py "org/qwen2-audio-mal-iemocap-fold{fold}" iemocap \
        --data-dir IEMOCAP_full_release --label-set 4-class --output reports

Stopped, it goes on where it was. `accelerate launch` before it shares the conversations among processes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from safetensors import SafetensorError
from transformers import AutoProcessor

from titans_mal import AutoModelForAudioEmotion, evaluate_conversations, load_conversations
from titans_mal.cli.messages import errors_in_one_line
from titans_mal.data.corpora import CORPORA
from titans_mal.evaluation.compare import comparison_markdown
from titans_mal.processes import end_processes, process_state


def main(
    model: Annotated[
        str,
        typer.Argument(help="Folder or Hub repo of a model for each fold, with {fold} in place of the fold's number."),
    ],
    corpus: Annotated[str, typer.Argument(help="Corpus with folds, such as iemocap or msp-improv.")],
    data_dir: Annotated[Path, typer.Option(help="Folder with your copy of the corpus.")],
    output: Annotated[Path, typer.Option(help="Folder for the reports.")],
    label_set: Annotated[
        str | None, typer.Option(help="Name of a label set of the corpus. Default: its first one.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Number of turns scored at once.")] = 16,
    resamples: Annotated[int, typer.Option(help="Number of bootstrap resamples.")] = 1000,
) -> None:
    if corpus not in CORPORA:
        raise typer.BadParameter(f"the corpus must be one of {', '.join(CORPORA)}, got {corpus}.")
    folds = len(CORPORA[corpus].fold_groups)
    if not folds:
        raise typer.BadParameter(f"{corpus} has official splits and no folds: use titans-mal evaluate.")
    if "{fold}" not in model:
        raise typer.BadParameter(
            "the model must contain {fold}: a single model would be tested on data that it was trained on."
        )
    with errors_in_one_line(SafetensorError):
        state = process_state()
        reports = []
        for fold in range(1, folds + 1):
            name = model.format(fold=fold)
            # The first process looks at the files; the others find what it saw.
            with state.main_process_first():
                conversations = load_conversations(corpus, data_dir=data_dir, label_set=label_set, fold=fold)
            reports.append(
                evaluate_conversations(
                    AutoModelForAudioEmotion.from_pretrained(name, dtype="auto").to(state.device),
                    AutoProcessor.from_pretrained(name),
                    conversations["test"],
                    output / f"fold{fold}",
                    # One for all folds, by which they are known to be of one model.
                    name=model,
                    train=conversations["train"],
                    batch_size=batch_size,
                    resamples=resamples,
                    problems=conversations.problems_of("test"),
                )
            )
        if state.is_main_process:
            table = output / "folds.md"
            table.write_text(comparison_markdown(reports), encoding="utf-8")
            print(f"Table: {table}")
        end_processes()


if __name__ == "__main__":
    typer.run(main)
