"""A Qwen2-Audio of any size with random weights and a memory, and turns for it."""

from __future__ import annotations

import numpy as np
import torch
import typer

from titans_mal import Qwen2AudioMALConfig, Qwen2AudioMALForAudioEmotion


# Width, blocks, heads, inner width of the language model; width and blocks of the audio tower; mel bins.
SIZES = {
    "tiny": (96, 4, 4, 256, 96, 2, 64),
    "small": (512, 8, 8, 1408, 256, 2, 64),
    "mid": (1024, 24, 16, 2816, 512, 4, 128),
    "7b": (4096, 32, 32, 11008, 1280, 32, 128),
}
VOCABULARY, AUDIO = 2000, 1999
FRAMES_PER_TOKEN = 4


# A memory with linear keys, as the tables of the README were measured with.
LINEAR = {"num_heads": 4, "head_dim": 64, "feature_map": "identity", "step_bound": "token"}


def build(size: str, *, tokens: int, device: str = "cpu", dtype: torch.dtype = torch.float32, **memory):
    """A model whose turns have at most `tokens` audio tokens; `memory` as `TitansMemoryConfig`, three layers."""
    if size not in SIZES:
        raise typer.BadParameter(f"--size must be one of {', '.join(SIZES)}, got {size}.")
    width, blocks, heads, inner, tower_width, tower_blocks, mel = SIZES[size]
    config = Qwen2AudioMALConfig(
        audio_config={
            "model_type": "qwen2_audio_encoder",
            "num_mel_bins": mel,
            "max_source_positions": tokens * FRAMES_PER_TOKEN // 2,
            "d_model": tower_width,
            "encoder_layers": tower_blocks,
            "encoder_attention_heads": max(4, tower_width // 64),
            "encoder_ffn_dim": 4 * tower_width,
        },
        text_config={
            "model_type": "qwen2",
            "vocab_size": VOCABULARY,
            "hidden_size": width,
            "intermediate_size": inner,
            "num_hidden_layers": blocks,
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
            "max_position_embeddings": 32_768,
            "eos_token_id": None,
            "bos_token_id": None,
            "pad_token_id": 0,
            "tie_word_embeddings": False,
        },
        audio_token_index=AUDIO,
        id2label=dict(enumerate(("neutral", "happy", "sad", "angry"))),
        label_token_ids=[10, 11, 12, 13],
        memory_config={
            "layers": [blocks // 4, blocks // 2, 3 * blocks // 4] if blocks >= 8 else [0, 1, 2],
            "depth": 2,
            **memory,
        },
    )
    torch.manual_seed(0)
    # In its own precision from the beginning: 7b in float32 would take twice what a GPU of 24 GB has.
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = Qwen2AudioMALForAudioEmotion(config)
    finally:
        torch.set_default_dtype(before)
    model = model.eval()
    model.titans_memory.float()
    # As after training: the memory acts.
    with torch.no_grad():
        for layer in model.titans_memory.layers:
            layer.output_proj.weight.normal_(std=0.02)
    return model


def turns(model, rows: int, *, tokens: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Inputs of `rows` turns of `tokens` audio tokens, in a prompt of ten more."""
    rng = np.random.default_rng(seed)
    words = torch.from_numpy(rng.integers(20, 1900, (rows, 10)))
    audio = torch.full((rows, tokens), AUDIO)
    ids = torch.cat([words[:, :5], audio, words[:, 5:]], dim=1)
    shape = (rows, model.config.audio_config.num_mel_bins, tokens * FRAMES_PER_TOKEN)
    features = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "input_features": features.to(model.dtype),
        "feature_attention_mask": torch.ones(rows, shape[2], dtype=torch.long),
    }
    return {name: tensor.to(model.device) for name, tensor in inputs.items()}
