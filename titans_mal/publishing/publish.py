"""Publishing: from a model or its folder to one commit on the Hub."""

from __future__ import annotations

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
from ..evaluation.report import EvaluationReport
from ..modeling.host_lora import LORA_FOLDER
from .model_card import EXAMPLES_FOLDER, MARKER, TEMPLATES, CardFacts, model_card
from .repository import (
    CARD_FILE,
    is_stale,
    read_config,
    read_recipe,
    repository_files,
    total_megabytes,
    write_code,
)


@dataclass
class Publication:
    """What goes up, or went.

    Attributes:
        files: by their place in the repository.
        left_out: names of files in the folder that are not published.
        missing: what the card does not state.
        url: of the commit; None where nothing was uploaded.
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
    license: str | None = None,
    language: Sequence[str] = (),
    datasets: Sequence[str] = (),
    reports: Sequence[str | Path] = (),
    examples: Sequence[str | Path] = (),
) -> Publication:
    """Publish a folder that `save_pretrained` wrote: model, processor, LoRA, code, card and endpoint handler.

    Card and handler are written into the folder first. A card without the line that says it was made here is kept as
    it is. Of other files in the folder none is published.

    Args:
        folder: of the model; may hold `training_recipe.json`, names and values that say how it was trained.
        repo_id: "org/name"; made if it does not exist.
        private: of a repository that is made.
        dry_run: write the folder and upload nothing.
        token: of the Hub; None: that of `hf auth login`.
        revision: the branch; None: main.
        commit_message: of the commit.
        license: an identifier of the Hub, as "apache-2.0".
        language: of the speech, as "en".
        datasets: that it was trained on.
        reports: folders of evaluation reports of this model.
        examples: sound files, the turns of one conversation in order, which are published and answered in the card.

    Raises:
        FileNotFoundError, ValueError: for a folder that cannot be published, saying what to do; for a report of
            another model; for a base that the Hub does not have, naming both. Nothing is uploaded then.
    """
    folder = Path(folder)
    check_repo_id(repo_id)
    config = read_config(folder)
    facts = CardFacts(
        license=license,
        language=language,
        datasets=datasets,
        examples=[Path(path) for path in examples],
        reports=[_report_of(config, folder, path) for path in reports],
        recipe=read_recipe(folder),
    )
    _write_hub_files(folder, repo_id, config, facts)
    names = [f"{EXAMPLES_FOLDER}/{path.name}" for path in facts.examples]
    files, left_out = repository_files(folder, names)
    publication = Publication(files, left_out, facts.missing(config))
    if not dry_run:
        api = HfApi(token=token)
        _check_base(api, config, repo_id)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        message = commit_message or f"Publish {repo_id.split('/')[-1]}"
        publication.url = upload(api, repo_id, files, message=message, revision=revision)
    return publication


def publish_model(model, repo_id: str, *, max_shard_size: int | str = "50GB", **kwargs) -> str:
    """Publish a model; `model.push_to_hub` is this.

    Args:
        model: with memory.
        repo_id: "org/name".
        max_shard_size: of the files of a model in full.
        kwargs: of `publish_folder`.

    Returns:
        The address of the commit.
    """
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, max_shard_size=max_shard_size)
        return publish_folder(folder, repo_id, **kwargs).url


def upload(
    api: HfApi, repo_id: str, files: dict[str, Path], *, message: str, revision: str | None = None, **kwargs
) -> str:
    """Upload files in one commit, which also takes away weights of an earlier one; with a progress bar.

    Args:
        files: by their place in the repository.
        kwargs: of `create_commit`.

    Returns:
        The address of the commit.
    """
    there = api.list_repo_files(repo_id, revision=revision, repo_type=kwargs.get("repo_type"))
    operations = [CommitOperationAdd(name, path) for name, path in files.items()]
    operations += [CommitOperationDelete(name) for name in there if is_stale(name) and name not in files]
    return api.create_commit(repo_id, operations, commit_message=message, revision=revision, **kwargs).commit_url


def check_repo_id(repo_id: str) -> None:
    """Refuse what is no name of a repository.

    Raises:
        ValueError: for a name that is not "org/name".
    """
    if repo_id.count("/") != 1:
        raise ValueError(f'A repository is named "org/name", got {repo_id!r}.')
    validate_repo_id(repo_id)


def _report_of(config: PreTrainedConfig, folder: Path, path: str | Path) -> EvaluationReport:
    """An evaluation report, if it is of the model in the folder."""
    report = EvaluationReport.load(path)
    measured, own = report.content["model"]["memory_weights"], config.memory_config.weights_fingerprint
    if measured != own:
        raise ValueError(f"The report {path} is of another model than {folder}: of memory {measured}, and not {own}.")
    return report


def _check_base(api: HfApi, config: PreTrainedConfig, repo_id: str) -> None:
    if not config.adapter_only:
        return
    base, revision = config.base_model_name_or_path, config.base_model_revision
    try:
        api.model_info(base, revision=revision)
    except HfHubHTTPError as error:
        raise ValueError(
            f"The base {base} at revision {revision} of the adapter {repo_id} is not on the Hub: {error}"
        ) from error


def _write_hub_files(folder: Path, repo_id: str, config: PreTrainedConfig, facts: CardFacts) -> None:
    """Write beside a model what its repository shows and serves."""
    write_code(folder, config)
    has_lora = (folder / LORA_FOLDER).is_dir()
    shutil.copyfile(TEMPLATES / "handler.py", folder / "handler.py")
    requirements = (TEMPLATES / "requirements.txt").read_text(encoding="utf-8")
    (folder / "requirements.txt").write_text(requirements + ("peft\n" if has_lora else ""), encoding="utf-8")
    for path in facts.examples:
        place = folder / EXAMPLES_FOLDER / path.name
        if not path.is_file():
            raise FileNotFoundError(f"The example {path} is not there.")
        place.parent.mkdir(exist_ok=True)
        if not place.exists() or not place.samefile(path):
            shutil.copyfile(path, place)
    card = folder / CARD_FILE
    if card.is_file() and MARKER not in card.read_text(encoding="utf-8"):
        return
    answers = _answers(folder, facts.examples) if facts.examples else ()
    megabytes = total_megabytes(folder)
    model_card(config, repo_id, facts, answers=answers, has_lora=has_lora, megabytes=megabytes).save(card)


def _answers(folder: Path, examples: Sequence[Path]) -> list[dict]:
    """What the model in a folder says of the turns of a conversation."""
    from transformers import AutoProcessor

    from ..modeling.pipeline_audio_emotion import AudioEmotionPipeline

    model = AutoModelForAudioEmotion.from_pretrained(folder)
    pipe = AudioEmotionPipeline(model=model, processor=AutoProcessor.from_pretrained(folder))
    return pipe([str(path) for path in examples])
