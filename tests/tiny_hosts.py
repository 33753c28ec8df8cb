"""Tiny random models of every host, and turns of ragged length for them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from transformers.models.gemma3n import modeling_gemma3n

import titans_mal
from titans_mal import AutoModelForAudioEmotion


VOCABULARY, PAD, BOS, EOS = 160, 0, 1, 2
AUDIO, AUDIO_START, AUDIO_END, IMAGE, VIDEO = 150, 151, 152, 153, 154
LABELS = ("neutral", "happy", "sad", "angry")
LABEL_TOKENS = [10, 11, 12, 13]
BLOCKS = 4
MEL, FRAMES = 16, 96


@dataclass(frozen=True)
class TinyHost:
    """A host that fits in a few kilobytes.

    Attributes:
        name: of the host's classes, without `MALConfig` and `MALForAudioEmotion`.
        fields: of the host's configuration.
        audio_inputs: `(rng, frames)` -> the inputs of the audio tower and the number of audio tokens, for each row.
        audio: id of the placeholder.
        start, end: ids around the audio, where the host looks for them.
        lengths: frames of the shortest and the longest turn.
        step: of which the frames of a turn are multiples.
        window: frames of the inputs, which shorter turns are padded to.
        patches: around what builds a model.
        home: module that holds the two classes.
    """

    name: str
    fields: Callable[[], dict]
    audio_inputs: Callable[[np.random.Generator, list[int]], tuple[dict[str, Tensor], list[int]]]
    audio: int = AUDIO
    start: tuple[int, ...] = ()
    end: tuple[int, ...] = ()
    lengths: tuple[int, int] = (24, 90)
    step: int = 1
    window: int = FRAMES
    patches: Callable = field(default=contextlib.nullcontext)
    home: object = titans_mal

    @property
    def config_class(self) -> type:
        return getattr(self.home, f"{self.name}MALConfig")

    @property
    def model_class(self) -> type:
        return getattr(self.home, f"{self.name}MALForAudioEmotion")

    @property
    def plain_class(self) -> type:
        return self.model_class.host_class()

    def config(self, **kwargs):
        memory = {"layers": [0, 2], "num_heads": 2, "head_dim": 8, "depth": 2, "chunk_size": 4}
        fields = {"id2label": dict(enumerate(LABELS)), "label_token_ids": LABEL_TOKENS, "emotion_prompt": "emotion ?"}
        return self.config_class(**(self.fields() | {"memory_config": memory} | fields | kwargs))

    def model(self, *, fresh: bool = False, **kwargs):
        """A model whose memory does something, as after training; `fresh` leaves it as it was initialised."""
        torch.manual_seed(0)
        with self.patches():
            model = AutoModelForAudioEmotion.from_config(self.config(**kwargs)).eval()
        if not fresh:
            with torch.no_grad():
                for parameter in model.titans_memory.parameters():
                    parameter.add_(0.3 * torch.randn_like(parameter))
        return model

    def plain(self):
        """The host alone."""
        torch.manual_seed(0)
        with self.patches():
            return self.plain_class(self.plain_class.config_class(**self.fields())).eval()

    def turns(self, rows: int, *, seed: int = 0, padding_side: str = "left", frames: list[int] | None = None) -> dict:
        """Inputs of turns of ragged length, as the host's processor would make them."""
        rng = np.random.default_rng(seed)
        frames = frames or (rng.integers(*self.lengths, size=rows) // self.step * self.step).tolist()
        inputs, tokens = self.audio_inputs(rng, frames)
        prompts = []
        for count in tokens:
            words = rng.integers(20, 100, size=6).tolist()
            prompts.append([BOS, *words[:2], *self.start, *[self.audio] * count, *self.end, *words[2:]])
        longest = max(map(len, prompts))
        ids, mask = torch.full((rows, longest), PAD), torch.zeros(rows, longest, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            place = slice(longest - len(prompt), None) if padding_side == "left" else slice(0, len(prompt))
            ids[row, place] = torch.tensor(prompt)
            mask[row, place] = 1
        return {"input_ids": ids, "attention_mask": mask, **inputs}

    def turns_like_the_host(self, rows: int, *, seed: int = 0) -> dict:
        """Turns for which the host alone gives the same: without padding, if it mixes that into shorter turns."""
        is_mixing = self.model_class.mixing_tower is not None
        return self.turns(rows, seed=seed, frames=[self.window] * rows if is_mixing else None)


# --- What audio towers take


def _features(rng, frames: list[int], bins: int, *, longest: int = FRAMES) -> tuple[Tensor, Tensor]:
    """(rows, longest, bins), zero behind each row's end, and the mask (rows, longest) of what is audio."""
    features, mask = torch.zeros(len(frames), longest, bins), torch.zeros(len(frames), longest, dtype=torch.bool)
    for row, count in enumerate(frames):
        features[row, :count] = torch.from_numpy(rng.standard_normal((count, bins))).float()
        mask[row, :count] = True
    return features, mask


def spectrograms(mask_name: str, tokens: Callable[[int], int], *, longest: int = FRAMES):
    """Whisper-like: (rows, bins, frames) and a mask of frames."""

    def audio_inputs(rng, frames):
        features, mask = _features(rng, frames, MEL, longest=longest)
        return {"input_features": features.mT.contiguous(), mask_name: mask.long()}, list(map(tokens, frames))

    return audio_inputs


def frames_first(bins: int, tokens: Callable[[int], int]):
    """(rows, frames, bins) and a mask of frames."""

    def audio_inputs(rng, frames):
        features, mask = _features(rng, frames, bins)
        return {"input_features": features, "input_features_mask": mask}, list(map(tokens, frames))

    return audio_inputs


def voxtral_audio(rng, frames):
    """Every turn fills whole windows, without a mask."""
    features, mask = _features(rng, frames, MEL, longest=64)
    features = torch.where(mask[..., None], features, features.amin((1, 2), keepdim=True))
    return {"input_features": features.mT.contiguous()}, [8] * len(frames)


def granite_audio(rng, frames):
    """The mask counts audio tokens, three of each fifteen frames."""
    features, _ = _features(rng, frames, MEL, longest=105)
    tokens = [3 * -(-count // 15) for count in frames]
    mask = torch.arange(21) < torch.tensor(tokens)[:, None]
    return {"input_features": features, "input_features_mask": mask}, tokens


def phi4_audio(rng, frames):
    features, mask = _features(rng, frames, MEL, longest=104)
    tokens = [-(-count // 8) for count in frames]
    return {
        "audio_input_features": features,
        "audio_embed_sizes": torch.tensor(tokens),
        "audio_attention_mask": mask,
    }, tokens


def halved_twice(frames: int) -> int:
    """Two convolutions or poolings of stride 2, as in Qwen2-Audio, Qwen2.5-Omni and the Flamingos."""
    return ((frames - 1) // 2 + 1 - 2) // 2 + 1


def qwen3_tokens(frames: int) -> int:
    """Three convolutions of stride 2 over windows of 100 frames."""
    rest = frames % 100
    for _ in range(3):
        rest = (rest - 1) // 2 + 1
    return rest + frames // 100 * 13


# --- Configurations


def whisper(model_type: str, **kwargs) -> dict:
    return {"model_type": model_type, "num_mel_bins": MEL, **kwargs}


def d_model_tower(model_type: str, **kwargs) -> dict:
    sizes = {"d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 32}
    return whisper(model_type, **sizes, **kwargs)


def hidden_size_tower(model_type: str, **kwargs) -> dict:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return whisper(model_type, **(sizes | kwargs))


def text(model_type: str, **kwargs) -> dict:
    return {
        "model_type": model_type,
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": BLOCKS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "pad_token_id": PAD,
        "bos_token_id": BOS,
        "eos_token_id": None,
        "tie_word_embeddings": False,
        **kwargs,
    }


def without_type(fields: dict) -> dict:
    return {key: value for key, value in fields.items() if key != "model_type"}


MROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
OMNI_IDS = {"image_token_id": IMAGE, "video_token_id": VIDEO, "audio_start_token_id": AUDIO_START}
OMNI_IDS |= {"audio_end_token_id": AUDIO_END, "vision_start_token_id": 155, "user_token_id": 9}
OMNI_VISION = {"depth": 1, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32}


def qwen2_audio() -> dict:
    return {
        "audio_config": d_model_tower("qwen2_audio_encoder", max_source_positions=FRAMES // 2),
        "text_config": text("qwen2"),
        "audio_token_index": AUDIO,
    }


def qwen2_5_omni() -> dict:
    ids = {key.replace("_id", "_index") if key in ("image_token_id", "video_token_id") else key: value
           for key, value in OMNI_IDS.items()}  # fmt: skip
    tower = d_model_tower("qwen2_5_omni_audio_encoder", max_source_positions=64, n_window=20, output_dim=32)
    return {
        "audio_config": without_type(tower),
        "vision_config": OMNI_VISION | {"fullatt_block_indexes": [0]},
        "text_config": without_type(text("qwen2", rope_parameters=MROPE)),
        "audio_token_index": AUDIO,
        **ids,
    }


def qwen3_omni_moe() -> dict:
    windows = {"max_source_positions": 64, "n_window": 50, "n_window_infer": 200, "initializer_range": 0.2}
    tower = d_model_tower("qwen3_omni_moe_audio_encoder", output_dim=32, downsample_hidden_size=8, **windows)
    experts = {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    return {
        "audio_config": without_type(tower),
        "vision_config": OMNI_VISION | {"deepstack_visual_indexes": [0], "num_position_embeddings": 16},
        "text_config": without_type(text("qwen3", rope_parameters=MROPE, **experts)),
        "audio_token_id": AUDIO,
        **OMNI_IDS,
    }


def audioflamingo3() -> dict:
    return {
        "audio_config": hidden_size_tower("audioflamingo3_encoder", max_source_positions=FRAMES // 2),
        "text_config": text("qwen2"),
        "audio_token_id": AUDIO,
    }


def musicflamingo() -> dict:
    return audioflamingo3() | {"audio_bos_token_id": AUDIO_START, "audio_eos_token_id": AUDIO_END}


def voxtral() -> dict:
    # The projector folds four frames into one token.
    tower = hidden_size_tower("voxtral_encoder", max_source_positions=32, intermediate_size=64)
    return {"audio_config": tower, "text_config": text("llama", head_dim=8), "audio_token_id": AUDIO}


def granite_speech() -> dict:
    conformer = {"num_layers": 2, "hidden_dim": 16, "num_heads": 2, "dim_head": 8, "conv_kernel_size": 3}
    sizes = {"input_dim": MEL, "output_dim": 6, "context_size": 20, "max_pos_emb": 32}
    qformer = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": VOCABULARY}
    return {
        "encoder_config": {"model_type": "granite_speech_encoder", **conformer, **sizes},
        "projector_config": {"model_type": "blip_2_qformer", "hidden_size": 32, "encoder_hidden_size": 16, **qformer},
        "text_config": text("granite"),
        "audio_token_index": AUDIO,
        "downsample_rate": 5,
        "window_size": 15,
        "has_lora_adapter": False,
    }


def phi4_multimodal() -> dict:
    conformer = {"hidden_size": 16, "intermediate_size": 32, "num_blocks": 2, "num_attention_heads": 2}
    channels = {"ext_pw_out_channel": 16, "depthwise_separable_out_channel": 16, "nemo_conv_channels": 16}
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return {
        **without_type(text("phi4", original_max_position_embeddings=512)),
        "vision_config": {**vision, "image_size": 28, "crop_size": 28, "patch_size": 14, "image_token_id": IMAGE},
        "audio_config": {**conformer, **channels, "input_size": MEL, "audio_token_id": AUDIO, "bias_max_distance": 32},
    }


GEMMA_TEXT = {"head_dim": 8, "hidden_size_per_layer_input": 8, "sliding_window": 64}
GEMMA_TEXT |= {"layer_types": ["sliding_attention", "full_attention"] * (BLOCKS // 2)}
# Gemma 3n keeps the ids of images and of audio at the end of its vocabulary.
GEMMA3N_IMAGES, GEMMA3N_AUDIO, GEMMA3N_TOKENS = VOCABULARY - 32, VOCABULARY - 16, 8


def gemma3n() -> dict:
    altup = {"laurel_rank": 4, "altup_num_inputs": 2, "num_kv_shared_layers": 0}
    altup |= {"activation_sparsity_pattern": [0.0] * BLOCKS, "vocab_size_per_layer_input": GEMMA3N_IMAGES}
    conformer = {"hidden_size": 16, "conf_num_attention_heads": 2, "conf_num_hidden_layers": 1}
    chunks = {"conf_attention_chunk_size": 4, "conf_attention_context_left": 5, "sscp_conv_channel_size": [8, 4]}
    return {
        "text_config": without_type(text("gemma3n", **GEMMA_TEXT, **altup)),
        "vision_config": {"hidden_size": 16, "vocab_size": 16, "vocab_offset": GEMMA3N_IMAGES},
        "audio_config": {
            **conformer, **chunks, "vocab_size": 16, "vocab_offset": GEMMA3N_AUDIO, "input_feat_size": 32,
        },
        "audio_soft_tokens_per_image": GEMMA3N_TOKENS,
        "audio_token_id": GEMMA3N_AUDIO + 1,
        "image_token_id": GEMMA3N_IMAGES + 1,
        "boi_token_id": 101,
        "eoi_token_id": GEMMA3N_IMAGES,
        "boa_token_id": 102,
        "eoa_token_id": GEMMA3N_AUDIO,
    }  # fmt: skip


def gemma3n_without_eyes():
    """Its vision tower comes from another package, timm; nothing here looks at pictures."""
    build = modeling_gemma3n.AutoModel.from_config

    def from_config(config, **kwargs):
        return nn.Identity() if config.model_type == "gemma3n_vision" else build(config, **kwargs)

    return mock.patch.object(modeling_gemma3n.AutoModel, "from_config", from_config)


def gemma4() -> dict:
    audio = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "output_proj_dims": 16}
    chunks = {"subsampling_conv_channels": [128, 4], "attention_chunk_size": 4, "attention_context_left": 5}
    per_layer = {"global_head_dim": 8, "vocab_size_per_layer_input": VOCABULARY, "num_kv_shared_layers": 0}
    return {
        "text_config": without_type(text("gemma4", **GEMMA_TEXT, **per_layer)),
        "vision_config": None,
        "audio_config": {**audio, **chunks},
        "audio_token_id": AUDIO,
        "image_token_id": IMAGE,
        "video_token_id": VIDEO,
        "boi_token_id": 155,
        "eoi_token_id": 156,
        "boa_token_id": AUDIO_START,
        "eoa_token_index": AUDIO_END,
    }


def glmasr() -> dict:
    tower = hidden_size_tower("glmasr_encoder", intermediate_size=64, max_position_embeddings=64)
    return {"audio_config": tower, "text_config": text("llama", head_dim=8), "audio_token_id": AUDIO}


def qwen3_asr() -> dict:
    windows = {"n_window": 50, "n_window_infer": 200, "initializer_range": 0.2}
    tower = d_model_tower("qwen3_asr_encoder", output_dim=32, downsample_hidden_size=8, **windows)
    ids = {"audio_token_id": AUDIO, "timestamp_token_id": 157, "pad_token_id": PAD, "eos_token_id": EOS}
    return {"audio_config": tower, "text_config": text("qwen3", head_dim=8), **ids}


_AROUND = {"start": (AUDIO_START,), "end": (AUDIO_END,)}
_MASKED = ("input_features_mask", halved_twice)

HOSTS = {
    host.name: host
    for host in (
        TinyHost("Qwen2Audio", qwen2_audio, spectrograms("feature_attention_mask", halved_twice)),
        TinyHost("Qwen2_5Omni", qwen2_5_omni, spectrograms("feature_attention_mask", halved_twice), **_AROUND),
        # Its tower mixes the padding of a batch into the end of a turn, unless it has a multiple of 8 frames.
        TinyHost(
            "Qwen3OmniMoe", qwen3_omni_moe, spectrograms("feature_attention_mask", qwen3_tokens), step=8, **_AROUND
        ),
        TinyHost("AudioFlamingo3", audioflamingo3, spectrograms(*_MASKED)),
        TinyHost("MusicFlamingo", musicflamingo, spectrograms(*_MASKED), **_AROUND),
        TinyHost("Voxtral", voxtral, voxtral_audio, lengths=(24, 64)),
        TinyHost("GraniteSpeech", granite_speech, granite_audio, window=105),
        TinyHost("Phi4Multimodal", phi4_multimodal, phi4_audio, window=104),
        TinyHost(
            "Gemma3n",
            gemma3n,
            frames_first(32, lambda frames: GEMMA3N_TOKENS),
            audio=GEMMA3N_AUDIO + 1,
            patches=gemma3n_without_eyes,
        ),
        TinyHost("Gemma4", gemma4, frames_first(128, lambda frames: math.ceil(frames / 4))),
        TinyHost("GlmAsr", glmasr, spectrograms("input_features_mask", lambda frames: ((frames - 1) // 2 + 1) // 4)),
        TinyHost("Qwen3ASR", qwen3_asr, spectrograms("input_features_mask", qwen3_tokens, longest=100)),
    )
}
