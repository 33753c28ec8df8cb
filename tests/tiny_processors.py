"""The real processor of every host, around a small vocabulary; nothing is downloaded.

What looks at pictures is a stand-in, since it needs torchvision. So is Granite Speech's spectrogram, which needs
torchaudio.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
import transformers
from tiny_hosts import (
    AUDIO,
    AUDIO_END,
    AUDIO_START,
    BOS,
    EOS,
    GEMMA3N_AUDIO,
    GEMMA3N_IMAGES,
    HOSTS,
    IMAGE,
    LABEL_TOKENS,
    LABELS,
    MEL,
    PAD,
    VIDEO,
    VOCABULARY,
)
from tiny_hosts import voxtral as voxtral_fields
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BatchFeature, PreTrainedTokenizerFast, ProcessorMixin, WhisperFeatureExtractor


UNKNOWN = 3


def tokenizer(special: dict[str, int], **names: str) -> PreTrainedTokenizerFast:
    """A word-level tokenizer whose ids are those of `tiny_hosts`; `names` are attributes of special tokens."""
    words = [f"word{i}" for i in range(VOCABULARY)]
    fixed = {"<pad>": PAD, "<s>": BOS, "<end>": EOS, "<unk>": UNKNOWN, "user": 4, "assistant": 5, "emotion": 6, "?": 7}
    for word, index in (fixed | dict(zip(LABELS, LABEL_TOKENS)) | special).items():
        words[index] = word
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    extra = {"extra_special_tokens": names} if names else {"additional_special_tokens": list(special)}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="<end>",
        padding_side="left", **extra,
    )  # fmt: skip


def chat_template(placeholder: str) -> str:
    """For messages of text, or of parts that have a type."""
    return (
        "{% for message in messages %}{{ message['role'] }} {% if message['content'] is string %}"
        "{{ message['content'] }} {% else %}{% for part in message['content'] %}{% if part['type'] == 'audio' %}"
        + placeholder
        + " {% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}assistant {% endif %}"
    )


# Two hosts whose own templates read messages in another way: Qwen2-Audio's looks for the key of an audio part and not
# for its type, and Qwen3-ASR's takes text from the system alone.
QWEN2_AUDIO_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} {% for part in message['content'] %}{% if 'audio' in part %}"
    "<|audio_bos|><|AUDIO|><|audio_eos|> {% elif 'text' in part %}{{ part['text'] }} {% endif %}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}assistant {% endif %}"
)
QWEN3_ASR_TEMPLATE = (
    "system {% for message in messages if message['role'] == 'system' %}{% for part in message['content'] %}"
    "{{ part['text'] }} {% endfor %}{% endfor %}"
    "user {% for message in messages if message['role'] == 'user' %}{% for part in message['content'] %}"
    "{% if part['type'] == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|> {% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)


def whisper_features() -> WhisperFeatureExtractor:
    """Windows of 3 s, in 96 frames."""
    return WhisperFeatureExtractor(feature_size=MEL, chunk_length=3, hop_length=500)


def without_eyes(name: str, **parts) -> ProcessorMixin:
    """A processor of that class whose parts for pictures and films are stand-ins."""
    try:
        processor_class = getattr(transformers, name)
    except ModuleNotFoundError as error:  # Gemma 4's before transformers 5.23
        pytest.skip(f"{name} needs more packages: {error}")
    eyes = SimpleNamespace(merge_size=2, temporal_patch_size=2, model_input_names=[])
    parts = {part: eyes if value is None else value for part, value in parts.items()}
    with mock.patch.object(ProcessorMixin, "check_argument_for_proper_class"):
        return processor_class(**parts)


def qwen2_audio(folder: Path) -> ProcessorMixin:
    special = {"<|AUDIO|>": AUDIO, "<|audio_bos|>": AUDIO_START, "<|audio_eos|>": AUDIO_END}
    return transformers.Qwen2AudioProcessor(whisper_features(), tokenizer(special), chat_template=QWEN2_AUDIO_TEMPLATE)


def omni(processor_class: str) -> Callable[[Path], ProcessorMixin]:
    names = {"audio_token": "<|AUDIO|>", "audio_bos_token": "<|audio_bos|>", "audio_eos_token": "<|audio_eos|>"}
    names |= {"image_token": "<|IMAGE|>", "video_token": "<|VIDEO|>"}
    names |= {"vision_bos_token": "<|vision_bos|>", "vision_eos_token": "<|vision_eos|>"}
    ids = dict(zip(names.values(), (AUDIO, AUDIO_START, AUDIO_END, IMAGE, VIDEO, 155, 156)))

    def build(folder: Path) -> ProcessorMixin:
        return without_eyes(
            processor_class, image_processor=None, video_processor=None, feature_extractor=whisper_features(),
            tokenizer=tokenizer(ids, **names), chat_template=chat_template("<|audio_bos|><|AUDIO|><|audio_eos|>"),
        )  # fmt: skip

    return build


def audioflamingo3(folder: Path) -> ProcessorMixin:
    return transformers.AudioFlamingo3Processor(
        whisper_features(), tokenizer({"<sound>": AUDIO}), chat_template=chat_template("<sound>"), max_audio_len=7
    )


def musicflamingo(folder: Path) -> ProcessorMixin:
    special = {"<sound>": AUDIO, "<|sound_bos|>": AUDIO_START, "<|sound_eos|>": AUDIO_END}
    return transformers.MusicFlamingoProcessor(
        whisper_features(), tokenizer(special), chat_template=chat_template("<sound>"), max_audio_len=7
    )


# Where Voxtral has them; the first twenty are those of every Tekken vocabulary.
VOXTRAL_CONTROL_TOKENS = (
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]"),
    *("[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]"),
    *("[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]", "[ARGS]", "[CALL_ID]", "<SPECIAL_22>"),
    *("<SPECIAL_23>", "[AUDIO]", "[BEGIN_AUDIO]", *(f"<SPECIAL_{i}>" for i in range(26, 34)), "[TRANSCRIBE]"),
)


def voxtral_audio(mel_bins: int) -> dict:
    """What the tekken.json of a model of audio says of it, as mistral-common 1.13 reads it."""
    return {
        "sampling_rate": 16_000,
        "frame_rate": 12.5,
        "audio_encoding_config": {"num_mel_bins": mel_bins, "hop_length": 160, "window_size": 400},
        "chunk_length_s": 30.0,
    }


def voxtral(folder: Path) -> ProcessorMixin:
    """mistral-common's own tokenizer, whose vocabulary is the 256 bytes."""
    control = VOXTRAL_CONTROL_TOKENS
    file = {
        "config": {
            "pattern": r"[\p{L}]+|\s+|[^\s\p{L}]+",
            "num_vocab_tokens": 256,
            "default_vocab_size": 256 + len(control),
            "default_num_special_tokens": len(control),
            "version": "v7",
        },
        "vocab": [
            {"rank": i, "token_bytes": base64.b64encode(bytes([i])).decode(), "token_str": None} for i in range(256)
        ],
        "special_tokens": [{"rank": i, "token_str": word, "is_control": True} for i, word in enumerate(control)],
        "audio": voxtral_audio(MEL),
    }
    (folder / "tekken.json").write_text(json.dumps(file))
    mistral = transformers.AutoTokenizer.from_pretrained(folder, tokenizer_type="mistral")
    return transformers.VoxtralProcessor(WhisperFeatureExtractor(feature_size=MEL), mistral)


class GraniteFeatures:
    """In place of `GraniteSpeechFeatureExtractor`: its shapes and counts, from frames of raw audio."""

    sampling_rate = 16_000

    def fetch_audio(self, audio, **kwargs):
        return audio

    def __call__(self, audio, device="cpu") -> BatchFeature:
        lengths = [len(turn) // 320 for turn in audio]  # two frames of 10 ms each
        features = torch.zeros(len(audio), max(lengths), MEL)
        for row, (turn, length) in enumerate(zip(audio, lengths)):
            frames = torch.as_tensor(turn)[: length * 320].view(length, 320)
            features[row, :length] = frames.unfold(1, 20, 20)[:, :MEL].abs().mean(-1)
        tokens = [-(-length // 15) * 3 for length in lengths]
        mask = torch.arange(max(tokens)) < torch.tensor(tokens)[:, None]
        return BatchFeature({"input_features": features, "audio_embed_sizes": tokens, "input_features_mask": mask})


def granite_speech(folder: Path) -> ProcessorMixin:
    return without_eyes(
        "GraniteSpeechProcessor", audio_processor=GraniteFeatures(),
        tokenizer=tokenizer({"<|audio|>": AUDIO}), chat_template=chat_template(""),
    )  # fmt: skip


def phi4_multimodal(folder: Path) -> ProcessorMixin:
    names = {"audio_token": "<|audio|>", "image_token": "<|image|>"}
    return without_eyes(
        "Phi4MultimodalProcessor", image_processor=None,
        audio_processor=transformers.Phi4MultimodalFeatureExtractor(feature_size=MEL),
        tokenizer=tokenizer({"<|audio|>": AUDIO, "<|image|>": IMAGE}, **names), chat_template=chat_template(""),
    )  # fmt: skip


GEMMA_NAMES = {"audio_token": "<audio>", "boa_token": "<boa>", "eoa_token": "<eoa>"}
GEMMA_NAMES |= {"image_token": "<image>", "boi_token": "<boi>", "eoi_token": "<eoi>"}


def gemma3n(folder: Path) -> ProcessorMixin:
    recordings = {"<audio>": GEMMA3N_AUDIO + 1, "<boa>": 102, "<eoa>": GEMMA3N_AUDIO}
    images = {"<image>": GEMMA3N_IMAGES + 1, "<boi>": 101, "<eoi>": GEMMA3N_IMAGES}
    return without_eyes(
        "Gemma3nProcessor", image_processor=None, tokenizer=tokenizer(recordings | images, **GEMMA_NAMES),
        feature_extractor=transformers.Gemma3nAudioFeatureExtractor(feature_size=32), audio_seq_length=20,
        chat_template="<s>" + chat_template("<audio>"),
    )  # fmt: skip


def gemma4(folder: Path) -> ProcessorMixin:
    ids = dict(zip(GEMMA_NAMES.values(), (AUDIO, AUDIO_START, AUDIO_END, IMAGE, 155, 156)))
    return without_eyes(
        "Gemma4Processor", image_processor=None, video_processor=None,
        tokenizer=tokenizer(ids, **GEMMA_NAMES), feature_extractor=transformers.Gemma4AudioFeatureExtractor(),
        chat_template="<s>" + chat_template("<audio>"),
    )  # fmt: skip


def glmasr(folder: Path) -> ProcessorMixin:
    return transformers.GlmAsrProcessor(
        whisper_features(), tokenizer({"<|pad|>": AUDIO}), chat_template=chat_template("<|pad|>"), max_audio_len=7
    )


def qwen3_asr(folder: Path) -> ProcessorMixin:
    names = {"audio_token": "<|AUDIO|>", "audio_bos_token": "<|audio_bos|>", "audio_eos_token": "<|audio_eos|>"}
    return transformers.Qwen3ASRProcessor(
        transformers.Qwen3ASRFeatureExtractor(feature_size=MEL),
        tokenizer(dict(zip(names.values(), (AUDIO, AUDIO_START, AUDIO_END))), **names),
        chat_template=QWEN3_ASR_TEMPLATE,
    )


PROCESSORS: dict[str, Callable[[Path], ProcessorMixin]] = {
    "Qwen2Audio": qwen2_audio,
    "Qwen2_5Omni": omni("Qwen2_5OmniProcessor"),
    "Qwen3OmniMoe": omni("Qwen3OmniMoeProcessor"),
    "AudioFlamingo3": audioflamingo3,
    "MusicFlamingo": musicflamingo,
    "Voxtral": voxtral,
    "GraniteSpeech": granite_speech,
    "Phi4Multimodal": phi4_multimodal,
    "Gemma3n": gemma3n,
    "Gemma4": gemma4,
    "GlmAsr": glmasr,
    "Qwen3ASR": qwen3_asr,
}


# Where a processor fixes what the tiny model must have.
FIELDS = {
    "Gemma3n": {"audio_soft_tokens_per_image": 20},
    "Voxtral": {
        "audio_token_id": 24,
        "audio_config": voxtral_fields()["audio_config"] | {"max_source_positions": 1500},
        "text_config": voxtral_fields()["text_config"] | {"vocab_size": 400},
    },
}


def model_for(name: str, processor: ProcessorMixin):
    """A tiny model of a host that takes what its processor gives."""
    host, fields = HOSTS[name], FIELDS.get(name, {})
    tokens = host.model_class.label_tokens_of(host.config(**fields), processor)
    return host.model(**fields, label_token_ids=tokens)
