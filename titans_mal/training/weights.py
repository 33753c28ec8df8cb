"""Load the weights of a checkpoint into the model in training."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors.torch import load_file

from ..modeling.audio_emotion_mixin import AudioEmotionMixin
from ..modeling.host_lora import has_lora, lora_misfits, read_lora, read_lora_config
from ..modeling.shortened import shortened


@torch.no_grad()
def load_trained_weights(model: AudioEmotionMixin, folder: str | os.PathLike) -> None:
    """Load the weights of a checkpoint of this model: memory and readout, its LoRA, or all weights.

    Args:
        model: a model with the same parts as the saved model.
        folder: written by `save_pretrained`.

    Raises:
        ValueError: if the checkpoint lacks trained weights, or holds another LoRA.
    """
    folder, loaded = Path(folder), set()
    for shard in sorted(folder.glob("model*.safetensors")):
        weights = load_file(shard)
        model.load_state_dict(weights, strict=False)
        loaded |= set(weights)
    if model.added_adapters:
        loaded |= _load_lora(model, folder)
    missing = [name for name, p in model.named_parameters() if p.requires_grad and name not in loaded]
    if missing:
        raise ValueError(f"{folder} lacks {len(missing)} of the trained weights ({shortened(missing)}).")


def _load_lora(model: AudioEmotionMixin, folder: Path) -> set[str]:
    """The names of the parameters that were loaded."""
    from peft import set_peft_model_state_dict

    (name,) = model.added_adapters
    if not has_lora(folder):
        raise ValueError(f"{folder} has no LoRA, but the model has one, {name!r}.")
    weights = read_lora(folder)
    if wrong := lora_misfits(model, name, weights):
        raise ValueError(
            f"The LoRA of {folder} has a different rank or different layers than the LoRA of the model "
            f"({shortened(wrong)})."
        )
    # An attribute of PEFT's class, which transformers' protocol for it does not list.
    saved, own = read_lora_config(folder).lora_alpha, model.peft_config[name].lora_alpha  # type: ignore[attr-defined]
    if saved != own:
        raise ValueError(f"The LoRA of {folder} has lora_alpha {saved}, but the model's is {own}.")
    set_peft_model_state_dict(model, weights, adapter_name=name)
    return {key for key, _ in model.named_parameters() if name in key.split(".")}
