"""What lies in a checkpoint's folder or Hub repo beside the weights that transformers loads by itself."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoProcessor, GenerationConfig, PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_NAME, cached_file, extract_commit_hash, logging


logger = logging.get_logger(__name__)

# How a repository is reached, and what locates a checkpoint; the base of an adapter has its own of the latter.
HUB_KEYWORDS = ("cache_dir", "force_download", "local_files_only", "token", "proxies")
LOCATION_KEYWORDS = ("revision", "subfolder")


def hub_keywords(kwargs: dict) -> dict:
    """Those of the keywords of a `from_pretrained` that say where the checkpoint is."""
    return {key: kwargs[key] for key in (*HUB_KEYWORDS, *LOCATION_KEYWORDS) if key in kwargs}


def check_location(name: str | os.PathLike, what: str = "checkpoint") -> None:
    """Raise a FileNotFoundError for a path that does not exist; transformers takes it for a repo of the Hub."""
    path = os.fspath(name)
    is_path = os.path.isabs(path) or path.startswith((".", "~")) or path.count("/") > 1
    if is_path and not os.path.isdir(path):
        raise FileNotFoundError(f"The {what} {path} is not there: it is no folder, and no name of a Hub repo.")


def commit_of(name: str | os.PathLike, hub: dict) -> str | None:
    """The commit of a Hub repo; None for a folder."""
    if os.path.isdir(name):
        return None
    # Of where the file lies in the cache: a revision may be a branch, which goes on.
    return extract_commit_hash(cached_file(name, "config.json", **hub), None)


def load_processor(name: str | os.PathLike, hub: dict, *, is_needed: bool, trust_remote_code: bool = False):
    """The host's processor; where it is not needed, None with a warning if it cannot be loaded.

    Raises:
        OSError, ValueError, ImportError: where it is needed; a ValueError also where only code of the repo's own could
            make it, which is not run.
    """
    try:
        return AutoProcessor.from_pretrained(name, trust_remote_code=trust_remote_code, **hub)
    except (OSError, ValueError, ImportError) as error:
        if is_needed:
            if not trust_remote_code and "trust_remote_code" in str(error):
                raise ValueError(
                    f"The processor of {name} is code of that repo, which is not run: give a repo or revision in "
                    "transformers' own format."
                ) from error
            raise
        logger.warning(f"No processor will be saved along: {error}")
        return None


@contextlib.contextmanager
def readable_checkpoint(name: str | os.PathLike) -> Iterator[None]:
    """Raise a ValueError that names the checkpoint, where a file of it cannot be read."""
    try:
        yield
    except SafetensorError as error:
        raise ValueError(f"The weights of {name} cannot be read: {error}") from error
    except RecursionError:
        raise ValueError(f"A file of {name} is JSON that is nested too deeply.") from None


def load_adapter_weights(name: str | os.PathLike, hub: dict, variant: str | None = None) -> dict[str, Tensor]:
    """The memory and readout of an adapter-only checkpoint.

    Raises:
        OSError: if there are none.
        ValueError: if they cannot be read.
    """
    stem, suffix = SAFE_WEIGHTS_NAME.split(".")
    path = cached_file(name, f"{stem}.{variant}.{suffix}" if variant else SAFE_WEIGHTS_NAME, **hub)
    try:
        return load_file(str(path))
    except SafetensorError as error:
        raise ValueError(f"The weights of the adapter in {path} cannot be read: {error}") from error


def check_finite_weights(model: PreTrainedModel, name: str | os.PathLike) -> None:
    """Refuse a model that would answer every turn with NaN, and keep it in the memory.

    Args:
        model: as it was loaded; tensors that are elsewhere (meta), and those of quantised layers, are passed over.
        name: of the checkpoint.

    Raises:
        ValueError: naming the parameters that have NaN or infinite numbers, and the buffers that have NaN (bounds in
            buffers may be infinite).
    """
    broken = [key for key, tensor in model.named_parameters() if not _is_finite(tensor)]
    broken += [key for key, tensor in model.named_buffers() if not _is_finite(tensor, allow_inf=True)]
    if broken:
        listed = ", ".join(broken[:5]) + (", ..." if len(broken) > 5 else "")
        raise ValueError(f"{name} has weights that are not finite, in {len(broken)} tensors: {listed}.")


@torch.no_grad()
def _is_finite(tensor: Tensor, *, allow_inf: bool = False) -> bool:
    is_usual = tensor.dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16)
    if not is_usual or tensor.is_meta or hasattr(tensor, "full_tensor") or not tensor.numel():
        return True
    # One pass without a copy; both are NaN where there is one.
    extremes = torch.stack(torch.aminmax(tensor.detach()))
    return not bool(extremes.isnan().any() if allow_inf else (~extremes.isfinite()).any())


def load_generation_config(name: str | os.PathLike, hub: dict) -> GenerationConfig | None:
    """That of the checkpoint; None where it has none."""
    try:
        return GenerationConfig.from_pretrained(name, **hub)
    except OSError:
        return None
