"""Publish a model or its folder on the Hub in one commit."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import validate_repo_id
from transformers import PreTrainedConfig

from ..auto import AutoModelForAudioEmotion
from ..data.audio import load_audio
from ..evaluation.pictures import draw_history
from ..evaluation.protocol import model_of
from ..evaluation.report_file import EvaluationReport
from ..modeling.host_lora import has_lora
from ..training_recipe import check_licence, read_recipe
from .model_card import EXAMPLES_FOLDER, MARKERS, TEMPLATES, CardFacts, model_card, picture_names
from .repository import (
    CARD_FILE,
    complete_config,
    is_stale,
    read_config,
    replace_text,
    repository_files,
    total_megabytes,
)


@dataclass
class Publication:
    """The files of a publication.

    Attributes:
        files: the files, by their path in the repository.
        left_out: names of files in the folder that are not published.
        missing: facts that are missing in the card.
        url: of the commit; None if nothing was uploaded.
    """

    files: dict[str, Path]
    left_out: list[str]
    missing: list[str]
    url: str | None = None


def publish_folder(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    dry_run: bool = False,
    token: str | bool | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    commit_description: str | None = None,
    create_pr: bool = False,
    tags: Sequence[str] = (),
    license: str | None = None,
    force_license: bool = False,
    language: Sequence[str] = (),
    datasets: Sequence[str] = (),
    reports: Sequence[str | Path] = (),
    examples: Sequence[str | Path] = (),
) -> Publication:
    """Publish a folder written by `save_pretrained`: model, processor, LoRA, code, card and endpoint handler.

    Card, handler and code are first written into the folder, also by a dry run; a card without the marker comment of
    generated cards is kept. Other files in the folder are not published.

    Args:
        folder: folder of the model; may hold `training_recipe.json`, a JSON object that describes the training.
        repo_id: "org/name"; created if it does not exist.
        private: visibility of a new repository.
        dry_run: write card, handler and code into the folder, and upload nothing.
        token: token for the Hub; None: that of `hf auth login`.
        revision: the branch, created if it does not exist; None: main.
        commit_message, commit_description, create_pr: as for transformers' `push_to_hub`.
        tags: additional tags of the card.
        license: an identifier of the Hub, such as "apache-2.0".
        force_license: accept it even if a corpus of the recipe is for non-commercial use only.
        language: language of the speech, such as "en".
        datasets: training datasets.
        reports: folders of evaluation reports of this model.
        examples: audio files, the turns of one conversation in order, published with the model's answers.

    Raises:
        FileNotFoundError, ValueError: for a folder that cannot be published, with what to do; for a report of another
            model; for an existing public repository if `private` is set; for a base that is not on the Hub. Nothing is
            uploaded then.
    """
    folder = Path(folder)
    check_repo_id(repo_id)
    config, recipe = read_config(folder), read_recipe(folder)
    if not force_license:
        check_licence(recipe, license, _several("datasets", datasets))
    facts = CardFacts(
        license=license,
        language=_several("language", language),
        datasets=_several("datasets", datasets),
        tags=_several("tags", tags),
        examples=_check_examples([Path(path) for path in _several("examples", examples)]),
        reports=_reports_of(folder, _several("reports", reports), token),
        recipe=recipe,
    )
    _write_hub_files(folder, repo_id, config, facts, token)
    names = [*(f"{EXAMPLES_FOLDER}/{path.name}" for path in facts.examples), *picture_names(facts.reports)]
    files, left_out = repository_files(folder, names)
    publication = Publication(files, left_out, facts.missing(config))
    if not dry_run:
        api = HfApi(token=token)
        _check_base(api, config, repo_id)
        repo_id = create_repo(api, repo_id, private)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        publication.url = upload(
            api,
            repo_id,
            files,
            message=commit_message or f"Publish {repo_id.split('/')[-1]}",
            revision=revision,
            commit_description=commit_description,
            create_pr=create_pr,
        )
    return publication


def publish_model(model, repo_id: str, *, max_shard_size: int | str = "50GB", **kwargs) -> str | None:
    """Publish a model; called by `model.push_to_hub`.

    Args:
        model: a model with memory.
        repo_id: "org/name".
        max_shard_size: maximal size of the weights files of a full model.
        kwargs: arguments for `publish_folder`.

    Returns:
        The URL of the commit; None if nothing was uploaded.
    """
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, max_shard_size=max_shard_size)
        return publish_folder(folder, repo_id, **kwargs).url


def create_repo(api: HfApi, repo_id: str, private: bool | None, **kwargs) -> str:
    """Create a repository if it does not exist.

    Raises:
        ValueError: for an existing public repository if `private` is set.
    """
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True, **kwargs).repo_id
    if private and not api.repo_info(repo_id, repo_type=kwargs.get("repo_type")).private:
        raise ValueError(f"{repo_id} exists and is public: make it private in its settings, or use another name.")
    return repo_id


def upload(
    api: HfApi, repo_id: str, files: dict[str, Path], *, message: str, revision: str | None = None, **kwargs
) -> str:
    """Upload files in one commit, which also deletes outdated weights; shows a progress bar.

    Args:
        files: the files, by their path in the repository.
        kwargs: arguments for `create_commit`.

    Returns:
        The URL of the commit, or of the pull request.
    """
    existing = api.list_repo_files(repo_id, revision=revision, repo_type=kwargs.get("repo_type"))
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        CommitOperationAdd(name, path) for name, path in files.items()
    ]
    operations += [CommitOperationDelete(name) for name in existing if is_stale(name) and name not in files]
    info = api.create_commit(repo_id, operations, commit_message=message, revision=revision, **kwargs)
    return info.pr_url or info.commit_url


def check_repo_id(repo_id: str) -> None:
    """Check the name of a repository.

    Raises:
        ValueError: for a name that is not "org/name".
    """
    if repo_id.count("/") != 1:
        raise ValueError(f'The name of a repository must be "org/name", got {repo_id!r}.')
    validate_repo_id(repo_id)


def _several(what: str, values: Sequence) -> list:
    if isinstance(values, str | Path):
        raise ValueError(f"{what} must be a list, got {values!r}.")
    return list(values)


def _check_examples(examples: list[Path]) -> list[Path]:
    for path in examples:
        if not path.is_file():
            raise FileNotFoundError(f"The example {path} does not exist.")
        load_audio(str(path))  # raises an error that names the file
    if len({path.name for path in examples}) < len(examples):
        raise ValueError(
            f"Examples are published under their file names, which must differ, got {list(map(str, examples))}."
        )
    return examples


def _reports_of(folder: Path, paths: list[str | Path], token: str | bool | None) -> list[EvaluationReport]:
    """Load evaluation reports, and check that they are of the model in the folder: of its weights and its prompt."""
    reports = [EvaluationReport.load(path) for path in paths]
    measured_as = {report.content["model"]["dtype"] for report in reports}
    own = {}
    for dtype in measured_as:
        model = AutoModelForAudioEmotion.from_pretrained(folder, dtype=dtype, token=token)
        own[dtype] = (model_of(model)["weights"], model.config.prompt_text())
    seen = set()
    for path, report in zip(paths, reports):
        content = report.content
        measured = (content["model"]["weights"], content["protocol"]["prompt"])
        if measured != own[content["model"]["dtype"]]:
            raise ValueError(
                f"The report {path} does not belong to the model in {folder}: it was measured with the weights "
                f"and prompt {measured}, not {own[content['model']['dtype']]}."
            )
        if (run := json.dumps(content, sort_keys=True)) in seen:
            raise ValueError(f"The report {path} was given twice.")
        seen.add(run)
    return reports


def _check_base(api: HfApi, config: PreTrainedConfig, repo_id: str) -> None:
    if not config.adapter_only:
        return
    base, revision = config.base_model_name_or_path, config.base_model_revision
    try:
        api.model_info(base, revision=revision)
    except HfHubHTTPError as error:
        raise ValueError(
            f"The base {base} at revision {revision} of the adapter {repo_id} is not on the Hub, or not visible with "
            f"this token: {error}"
        ) from error


def _write_hub_files(
    folder: Path, repo_id: str, config: PreTrainedConfig, facts: CardFacts, token: str | bool | None
) -> None:
    """Write the files that a repository shows or runs into the model's folder."""
    complete_config(folder, config)
    with_lora = has_lora(folder)
    for name, more in (("handler.py", ""), ("requirements.txt", "peft\n" if with_lora else "")):
        if not _is_custom(folder / name):
            replace_text(folder / name, (TEMPLATES / name).read_text(encoding="utf-8") + more)
    for path in facts.examples:
        place = folder / EXAMPLES_FOLDER / path.name
        place.parent.mkdir(exist_ok=True)
        if not place.exists() or not place.samefile(path):
            shutil.copyfile(path, place)
    for report, name in zip(facts.reports, picture_names(facts.reports)):
        place = folder / name
        place.parent.mkdir(exist_ok=True)
        draw_history(report.content, place)
    if _is_custom(folder / CARD_FILE):
        return
    answers = _answers(folder, facts.examples, token) if facts.examples else ()
    card = model_card(config, repo_id, facts, answers=answers, has_lora=with_lora, megabytes=total_megabytes(folder))
    replace_text(folder / CARD_FILE, str(card))


def _is_custom(path: Path) -> bool:
    """Whether a file exists that was not generated here, or whose marker comment was removed."""
    if not path.is_file():
        return False
    text = path.read_text(encoding="utf-8")
    return not any(marker in text for marker in MARKERS)


def _answers(folder: Path, examples: Sequence[Path], token: str | bool | None) -> list[dict]:
    """Outputs of the model in a folder for the turns of a conversation."""
    from transformers import AutoProcessor

    from ..modeling.pipeline_audio_emotion import AudioEmotionPipeline

    model = AutoModelForAudioEmotion.from_pretrained(folder, token=token)
    pipe = AudioEmotionPipeline(model=model, processor=AutoProcessor.from_pretrained(folder))
    # A memory per speaker needs a speaker; who it is, is unknown.
    return pipe([{"audio": str(path), "speaker": "speaker"} for path in examples])
