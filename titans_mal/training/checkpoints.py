"""Complete checkpoints: digests of all files are written last, and verified before use."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import shutil
from pathlib import Path

from transformers.utils import logging

from ..modeling.atomic_files import replacing
from ..modeling.json_text import parse_json


logger = logging.get_logger(__name__)

DIGESTS_FILE = "checkpoint_digests.json"


def seal_checkpoint(folder: str | os.PathLike) -> None:
    """Write the digests of all files of a checkpoint, after everything else has been written."""
    folder = Path(folder)
    # The files must be on disk before their digests.
    for path in _files(folder):
        _sync(path)
    digests = json.dumps({_name(folder, path): _digest(path) for path in _files(folder)}, indent=2)
    with replacing(folder / DIGESTS_FILE) as draft:
        draft.write_text(digests)
        _sync(draft)


def find_damage(folder: str | os.PathLike) -> str | None:
    """Why a checkpoint cannot be used, as text; None if it is complete."""
    folder = Path(folder)
    try:
        digests = parse_json((folder / DIGESTS_FILE).read_bytes())
    except (OSError, ValueError):
        return f"{DIGESTS_FILE} is missing or broken, so the checkpoint is incomplete"
    if not isinstance(digests, dict) or not digests:
        return f"{DIGESTS_FILE} lists no files"
    for name, digest in digests.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if _digest(path) != digest:
            return f"{name} does not match its digest"
    return None


def last_good_checkpoint(output_dir: str | os.PathLike) -> str | None:
    """The latest complete checkpoint of a training; later ones are skipped with a warning.

    Args:
        output_dir: folder of the training, with subfolders `checkpoint-STEP`.

    Returns:
        Its folder; None if there is none.
    """
    for folder in reversed(_checkpoints(output_dir)):
        damage = find_damage(folder)
        if damage is None:
            return str(folder)
        logger.warning(f"{folder} is not used: {damage}.")
    return None


def set_aside_broken(output_dir: str | os.PathLike, *, after: str | os.PathLike) -> None:
    """Rename incomplete checkpoints that follow a complete one, so that they do not count as kept."""
    step = _step(Path(after))
    for folder in _checkpoints(output_dir):
        if _step(folder) > step and find_damage(folder) is not None:
            names = (f"{folder.name}-broken{'' if number == 1 else f'-{number}'}" for number in itertools.count(1))
            # A broken checkpoint of the same step may exist from an earlier interruption.
            folder.rename(next(path for path in map(folder.with_name, names) if not path.exists()))


def keep_latest(output_dir: str | os.PathLike, limit: int, *, best: str | None = None) -> None:
    """Remove all complete checkpoints but the latest `limit` and the best one.

    Args:
        output_dir: folder of the training.
        limit: number of checkpoints to keep.
        best: a checkpoint to keep in any case.
    """
    sealed = [folder for folder in _checkpoints(output_dir) if (folder / DIGESTS_FILE).is_file()]
    # A resumed training may name its folder in another way than the one that recorded the best checkpoint.
    kept = {folder.name for folder in sealed[-limit:]} | ({Path(best).name} if best else set())
    for folder in sealed:
        if folder.name not in kept:
            shutil.rmtree(folder)


def _checkpoints(output_dir: str | os.PathLike) -> list[Path]:
    """The checkpoint folders, in the order of their steps."""
    folders = Path(output_dir).glob("checkpoint-*")
    return sorted((path for path in folders if re.fullmatch(r"checkpoint-\d+", path.name)), key=_step)


def _step(folder: Path) -> int:
    return int(folder.name.split("-")[1])


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(DIGESTS_FILE))


def _name(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
