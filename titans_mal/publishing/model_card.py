"""The model card: what a model's own configuration, its evaluation reports and its publisher say of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import metadata
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote, unquote

from huggingface_hub import EvalResult, ModelCard, ModelCardData, hf_hub_url
from transformers import PreTrainedConfig

from .._version import __version__
from ..evaluation.report_file import EvaluationReport
from ..evaluation.report_tables import (
    INTERVALS,
    METRIC_TITLES,
    SPELT_OUT,
    difference_table,
    metrics_table,
    protocol_table,
    worst_groups,
)
from ..modeling.configuration_titans_mal import read_labels
from ..safe_text import markdown_text


TEMPLATES = Path(str(files("titans_mal.hub_cards")))
# A file with this comment was made here, and may be made again; one without it is the publisher's own.
MARKER = "Made by titans_mal, at every publication anew; without this line it is kept as it is."
EXAMPLES_FOLDER, PICTURES_FOLDER = "examples", "evaluation"
_TAGS = ("speech-emotion-recognition", "audio", "titans", "test-time-memory", "titans_mal")
_NOT_SHOWN = ("model_type", "weights_fingerprint")
# The conditions whose metrics are results of the model.
_RESULTS = ("memory", "reads_off")
# Of a recipe, what says nothing.
_EMPTY = ("", "None", "{}", "[]", "null")
# How the Hub calls the metrics of a report.
_METRICS = {"wa": "accuracy", "ua": "recall", "weighted_f1": "f1", "macro_f1": "f1"}


@dataclass
class CardFacts:
    """What a publisher says of a model that neither its files nor a report do.

    Attributes:
        license: an identifier of the Hub, as "apache-2.0".
        language: of the speech, as "en".
        datasets: that it was trained on; names of the Hub where they are there.
        tags: of the card, beside its own.
        examples: audio files, the turns of one conversation in order, which are uploaded and answered in the card.
        reports: evaluation reports of the model.
        recipe: how it was trained; a table of names and values.
    """

    license: str | None = None
    language: Sequence[str] = ()
    datasets: Sequence[str] = ()
    tags: Sequence[str] = ()
    examples: Sequence[Path] = ()
    reports: Sequence[EvaluationReport] = ()
    recipe: dict[str, object] = field(default_factory=dict)

    def missing(self, config: PreTrainedConfig) -> list[str]:
        """The names of what is not stated of a model."""
        stated = {
            "license": self.license,
            "language": self.language,
            "datasets": self.datasets,
            "evaluation": self.reports,
            "training recipe": self.recipe,
            "examples": self.examples,
            "revision of the base": config.base_model_revision or config.base_model_name_or_path is None,
        }
        return [name for name, value in stated.items() if not value]


def model_card(
    config: PreTrainedConfig,
    repo_id: str,
    facts: CardFacts,
    *,
    answers: Sequence[dict] = (),
    has_lora: bool = False,
    megabytes: float,
) -> ModelCard:
    """The card of a model.

    Args:
        config: of the model with memory.
        repo_id: "org/name".
        facts: what its publisher says.
        answers: of the pipeline, one for each of `facts.examples`.
        has_lora: whether a LoRA lies beside the memory.
        megabytes: of all weights.
    """
    examples = [
        {"title": path.stem, "path": quote(f"{EXAMPLES_FOLDER}/{path.name}"), **_read(answer)}
        for path, answer in zip(facts.examples, answers)
    ]
    base, memory = config.base_model_name_or_path, config.memory_config
    return ModelCard.from_template(
        _card_data(config, repo_id, facts, examples),
        template_path=str(TEMPLATES / "model_card.md.jinja"),
        adapter_only=config.adapter_only,
        cell=markdown_text,
        base=base,
        base_revision=config.base_model_revision,
        class_name=type(config).__name__.removesuffix("Config") + "ForAudioEmotion",
        examples=examples,
        half_life=memory.forget_half_life,
        has_lora=has_lora,
        is_by_speaker=memory.scope == "speaker",
        labels=read_labels(config),
        dimensions=config.emotion_dimensions,
        marker=MARKER,
        megabytes=f"{megabytes:.1f}",
        memory={
            name: value
            for name, value in vars(memory).items()
            if name in type(memory).__annotations__ and name not in _NOT_SHOWN
        },
        missing=facts.missing(config),
        prompt=config.prompt_text(),
        readout=config.emotion_readout,
        recipe={name: value for name, value in facts.recipe.items() if str(value).strip() not in _EMPTY},
        repo_id=repo_id,
        reports=[
            _report_section(report.content, repo_id, picture)
            for report, picture in zip(facts.reports, picture_names(facts.reports))
        ],
        transformers_range=_requirement("transformers"),
        version=__version__,
    )


def _card_data(config: PreTrainedConfig, repo_id: str, facts: CardFacts, examples: list[dict]) -> ModelCardData:
    base = config.base_model_name_or_path
    widget = [
        {
            "src": hf_hub_url(repo_id, unquote(example["path"])),
            "example_title": example["title"],
            "output": _ranked(example["scores"]),
        }
        for example in examples
    ]
    metrics = sorted({_METRICS[name] for _ in facts.reports for name in _METRICS})
    more = {
        "base_model_relation": ("adapter" if config.adapter_only else "finetune") if base else None,
        "widget": widget or None,
    }
    return ModelCardData(
        model_name=repo_id.split("/")[-1],
        pipeline_tag="audio-classification",
        library_name="transformers",
        license=facts.license,
        language=list(facts.language) or None,
        base_model=base,
        datasets=list(facts.datasets) or None,
        metrics=metrics or None,
        tags=[*_TAGS, *facts.tags],
        eval_results=[result for report in facts.reports for result in _eval_results(report.content)] or None,
        **{name: value for name, value in more.items() if value is not None},
    )


def _read(answer: dict) -> dict[str, dict]:
    return {"scores": answer["scores"], "values": answer.get("values", {})}


def _ranked(scores: dict[str, float]) -> list[dict]:
    ranked = sorted(scores.items(), key=lambda pair: -pair[1])
    return [{"label": label, "score": round(score, 4)} for label, score in ranked]


def _eval_results(content: dict) -> list[EvalResult]:
    """The metrics of the model with its memory on and off; what controls, rivals and floors reach are no results of
    it."""
    protocol = content["protocol"]
    dataset = {
        "dataset_type": protocol["corpus"],
        "dataset_name": protocol["corpus"],
        "dataset_config": protocol["label_set"],
        "dataset_split": protocol["split"],
        "dataset_args": {"labels": protocol["labels"]},
    }
    # Results of one split are one entry to the Hub, whatever their fold.
    measured = {name: protocol[name] for name in ("fold", "scored", "conversations", "seed")}
    return [
        EvalResult(
            task_type="audio-classification",
            task_name="Emotion recognition in conversation",
            metric_type=_METRICS[metric],
            metric_name=f"{METRIC_TITLES[metric]} ({column['title']})",
            metric_value=round(100 * found["value"], 2),
            metric_args={
                "column": name,
                "metric": metric,
                "interval": found["interval"] and [round(100 * end, 2) for end in found["interval"]],
                **measured,
                "resamples": content["bootstrap"]["resamples"],
            },
            **dataset,
        )
        for name, column in content["columns"].items()
        if name in _RESULTS
        for metric, found in column["metrics"].items()
        if metric in _METRICS
    ]


def picture_names(reports: Sequence[EvaluationReport]) -> list[str]:
    """The place in the repository of each report's picture, accuracy by history."""
    return [f"{PICTURES_FOLDER}/history_{number}.png" for number in range(1, len(reports) + 1)]


def _report_section(content: dict, repo_id: str, picture: str) -> str:
    """A report's main tables and its picture, under a heading of the card."""
    # The folder in which the model was measured is not the reader's business.
    content = {**content, "model": {**content["model"], "name": repo_id}}
    protocol = content["protocol"]
    fold = "" if protocol["fold"] is None else f", fold {protocol['fold']}"
    parts = [
        "### " + markdown_text(f"{protocol['corpus']}, {protocol['label_set']}{fold}, {protocol['split']}"),
        f"{INTERVALS} {SPELT_OUT} Every condition but the first is a control, a rival or a floor.",
        metrics_table(content).markdown(),
    ]
    if content["differences"]:
        parts += [
            "Memory on, minus each other column, in points on the same turns:",
            difference_table(content).markdown(),
        ]
    parts += [f"![WA by the number of earlier turns of the speaker]({picture})", *worst_groups(content)]
    return "\n\n".join([*parts, "Measured under:", protocol_table(content).markdown()])


def _requirement(package: str) -> str:
    """The range of versions that is declared for a package."""
    for line in metadata("titans-mal").get_all("Requires-Dist"):
        if line.startswith(package) and "extra" not in line:
            return ",".join(sorted(line.removeprefix(package).strip(" ()").split(","), reverse=True))
    raise LookupError(f"titans_mal declares no {package}.")
