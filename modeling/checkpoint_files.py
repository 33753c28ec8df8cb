"""The files of a checkpoint's folder or Hub repo beside the weights that transformers loads."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoProcessor, GenerationConfig, PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_NAME, cached_file, extract_commit_hash, logging

from .shortened import shortened


logger = logging.get_logger(__name__)

# How a repository is reached, and where in it a checkpoint is; an adapter and its base differ in the latter.
HUB_KEYWORDS = ("cache_dir", "force_download", "local_files_only", "token", "proxies")
LOCATION_KEYWORDS = ("revision", "subfolder")
# What libraries raise for invalid values in a JSON file.
_BROKEN = (AttributeError, LookupError, TypeError, ArithmeticError, RuntimeError)


def hub_keywords(kwargs: dict) -> dict:
    """The keywords of a `from_pretrained` call that say where the checkpoint is."""
    return {key: kwargs[key] for key in (*HUB_KEYWORDS, *LOCATION_KEYWORDS) if key in kwargs}


def check_location(name: str | os.PathLike, what: str = "checkpoint") -> None:
    """Raise FileNotFoundError for a path that does not exist, which transformers would look up on the Hub."""
    path = os.fspath(name)
    is_path = os.path.isabs(path) or path.startswith((".", "~")) or path.count("/") > 1
    if is_path and not os.path.isdir(path):
        raise FileNotFoundError(
            f"The {what} {path} does not exist: it is neither a folder nor the name of a Hub repo."
        )


def commit_of(name: str | os.PathLike, hub: dict) -> str | None:
    """The commit of a Hub repo; None for a folder."""
    if os.path.isdir(name):
        return None
    # Taken from the path in the cache, since a revision may be a branch, which moves.
    return extract_commit_hash(cached_file(name, "config.json", **hub), None)


def load_processor(name: str | os.PathLike, hub: dict, *, is_needed: bool, trust_remote_code: bool = False):
    """The host's processor; if it is not needed and cannot be loaded, None with a warning.

    Raises:
        OSError, ValueError, ImportError: if it is needed; a ValueError also if it needs the repo's own code, which is
            not run.
    """
    try:
        return AutoProcessor.from_pretrained(name, trust_remote_code=trust_remote_code, **hub)
    except (OSError, ValueError, ImportError) as error:
        if is_needed:
            if not trust_remote_code and "trust_remote_code" in str(error):
                raise ValueError(
                    f"The processor of {name} needs the code of that repo, which is not run: use a repo or "
                    "revision in transformers' own format."
                ) from error
            raise
        logger.warning(f"The processor could not be loaded and will not be saved with the model: {error}")
        return None


@contextlib.contextmanager
def readable_checkpoint(name: str | os.PathLike) -> Iterator[None]:
    """Within this context, turn errors about files that are unreadable or hold impossible values into a ValueError
    that names the checkpoint."""
    try:
        yield
    except SafetensorError as error:
        raise ValueError(f"The weights of {name} cannot be read: {error}") from error
    except RecursionError:
        raise ValueError(f"A JSON file of {name} is nested too deeply.") from None
    except Exception as error:
        is_broken = isinstance(error, _BROKEN) or type(error).__name__.startswith("StrictDataclass")
        is_of_caller = isinstance(error, TypeError) and "keyword argument" in str(error)
        is_of_machine = isinstance(error, RuntimeError) and not re.search("mismatched|negative dimension", str(error))
        if not is_broken or is_of_caller or is_of_machine:
            raise
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(
            f"The configuration of {name} is invalid, or does not match the weights ({what:.300})."
        ) from error


def load_adapter_weights(name: str | os.PathLike, hub: dict, variant: str | None = None) -> dict[str, Tensor]:
    """The memory and readout of an adapter-only checkpoint.

    Raises:
        OSError: if there is no weights file.
        ValueError: if they cannot be read.
    """
    stem, suffix = SAFE_WEIGHTS_NAME.split(".")
    path = cached_file(name, f"{stem}.{variant}.{suffix}" if variant else SAFE_WEIGHTS_NAME, **hub)
    try:
        return load_file(str(path))
    except SafetensorError as error:
        raise ValueError(f"The weights of the adapter in {path} cannot be read: {error}") from error


def check_finite_weights(model: PreTrainedModel, name: str | os.PathLike) -> None:
    """Check a model's weights for NaN and infinity, which would spoil every output and the memory.

    Args:
        model: the loaded model; meta tensors and the tensors of quantised layers are skipped.
        name: name of the checkpoint.

    Raises:
        ValueError: naming the parameters with NaN or infinite values, and the buffers with NaN (buffers may hold
            infinite bounds).
    """
    broken = [key for key, tensor in model.named_parameters() if not _is_finite(tensor)]
    broken += [key for key, tensor in model.named_buffers() if not _is_finite(tensor, allow_inf=True)]
    if broken:
        raise ValueError(f"{name} has {len(broken)} tensors with values that are not finite ({shortened(broken, 5)}).")


@torch.no_grad()
def _is_finite(tensor: Tensor, *, allow_inf: bool = False) -> bool:
    is_usual = tensor.dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16)
    if not is_usual or tensor.is_meta or hasattr(tensor, "full_tensor") or not tensor.numel():
        return True
    # One pass without a copy; both extremes are NaN if any value is.
    extremes = torch.stack(torch.aminmax(tensor.detach()))
    return not bool(extremes.isnan().any() if allow_inf else (~extremes.isfinite()).any())


def load_generation_config(name: str | os.PathLike, hub: dict) -> GenerationConfig | None:
    """The generation config of the checkpoint; None if it has none."""
    try:
        return GenerationConfig.from_pretrained(name, **hub)
    except OSError:
        return None
