"""Processors of hosts as they are released, out of files that are not in this repository.

The folder `real_processors` of the environment variable TITANS_MAL_DATA holds a folder for each host. What is missing
there is made up here, and said.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import transformers
from tiny_processors import without_eyes
from transformers import AddedToken, ProcessorMixin, WhisperFeatureExtractor


def data_folder(*parts: str) -> Path:
    """A folder or file of TITANS_MAL_DATA; the test that asks for it is skipped where it is missing."""
    root = os.environ.get("TITANS_MAL_DATA")
    if not root:
        pytest.skip("TITANS_MAL_DATA does not name the folder of released files and human voices")
    path = Path(root).joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{path} is missing")
    return path


def released_file(host: str, name: str) -> Path:
    return data_folder("real_processors", host, name)


def chat_template(host: str) -> str:
    folder = data_folder("real_processors", host)
    if (folder / "chat_template.json").exists():
        return json.loads((folder / "chat_template.json").read_text())["chat_template"]
    return released_file(host, "chat_template.jinja").read_text()


def byte_level_bpe(added: dict[str, int] | None = None, **names: str) -> transformers.PreTrainedTokenizerBase:
    """The vocabulary and merges of Qwen2, 2.5 and 3, with the tokens that a host adds at their ids."""
    folder = released_file("qwen3_asr", "vocab.json").parent
    tokenizer = transformers.Qwen2Tokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"))
    added = {"<|endoftext|>": 151643, "<|im_start|>": 151644, "<|im_end|>": 151645} | (added or {})
    in_order = sorted(added, key=added.get)
    tokenizer.add_tokens([AddedToken(word, special=True, normalized=False) for word in in_order])
    assert [tokenizer.convert_tokens_to_ids(word) for word in in_order] == [added[word] for word in in_order]
    tokenizer.pad_token, tokenizer.eos_token = "<|endoftext|>", "<|im_end|>"
    for name, word in names.items():
        setattr(tokenizer, name, word)
    return tokenizer


def features_of(host: str, file: str = "preprocessor_config.json") -> WhisperFeatureExtractor:
    fields = json.loads(released_file(host, file).read_text())
    return WhisperFeatureExtractor.from_dict(fields.get("feature_extractor", fields))


def qwen3_asr(folder: Path) -> ProcessorMixin:
    """Its tokenizer and template; the features are those of the format that transformers loads."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(data_folder("real_processors", "qwen3_asr"))
    size = json.loads(released_file("qwen3_asr", "preprocessor_config.json").read_text())["feature_size"]
    features = transformers.Qwen3ASRFeatureExtractor(feature_size=size)
    return transformers.Qwen3ASRProcessor(features, tokenizer, chat_template=chat_template("qwen3_asr"))


def qwen2_audio(folder: Path) -> ProcessorMixin:
    """Whole: its byte-level BPE is that of Qwen3-ASR; the placeholder's id is that of its configuration."""
    first = json.loads(released_file("qwen2_audio", "config.json").read_text())["audio_token_index"]
    added = {"<|AUDIO|>": first, "<|audio_bos|>": first + 1, "<|audio_eos|>": first + 2}
    return transformers.Qwen2AudioProcessor(
        features_of("qwen2_audio"), byte_level_bpe(added), chat_template=chat_template("qwen2_audio")
    )


def audioflamingo3(folder: Path) -> ProcessorMixin:
    """Its template, features and Qwen2.5's BPE; at which id the placeholder is, is made up."""
    tokenizer = byte_level_bpe({"<sound>": 151646})
    features = features_of("audioflamingo3", "processor_config.json")
    return transformers.AudioFlamingo3Processor(features, tokenizer, chat_template=chat_template("audioflamingo3"))


def phi4_multimodal(folder: Path) -> ProcessorMixin:
    """Its template; the words of another tokenizer."""
    words = ("<|image|>", "<|audio|>", "<|user|>", "<|assistant|>", "<|end|>", "<|system|>")
    tokenizer = byte_level_bpe({word: 151646 + i for i, word in enumerate(words)})
    tokenizer.audio_token, tokenizer.image_token = "<|audio|>", "<|image|>"
    tokenizer.audio_token_id, tokenizer.image_token_id = 151647, 151646
    features = transformers.Phi4MultimodalFeatureExtractor()
    return without_eyes(
        "Phi4MultimodalProcessor", image_processor=None, audio_processor=features, tokenizer=tokenizer,
        chat_template=chat_template("phi4_multimodal"),
    )  # fmt: skip


def voxtral(folder: Path) -> ProcessorMixin:
    """Tekken's vocabulary out of mistral-common, with the control tokens where Voxtral has them, and its features."""
    mistral_common = pytest.importorskip("mistral_common", reason="Voxtral's processor needs mistral-common[audio]")
    from tiny_processors import VOXTRAL_CONTROL_TOKENS, voxtral_audio

    file = json.loads((Path(mistral_common.__file__).parent / "data" / "tekken_240911.json").read_text())
    file["config"]["version"] = "v7"
    file.pop("image", None)
    control = [*VOXTRAL_CONTROL_TOKENS, *(f"<SPECIAL_{i}>" for i in range(len(VOXTRAL_CONTROL_TOKENS), 1000))]
    file["special_tokens"] = [{"rank": i, "token_str": word, "is_control": True} for i, word in enumerate(control)]
    features = features_of("voxtral")
    file["audio"] = voxtral_audio(features.feature_size)
    (folder / "tekken.json").write_text(json.dumps(file))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, tokenizer_type="mistral")
    return transformers.VoxtralProcessor(features, tokenizer)


RELEASED: dict[str, Callable[[Path], ProcessorMixin]] = {
    "Qwen3ASR": qwen3_asr,
    "Qwen2Audio": qwen2_audio,
    "AudioFlamingo3": audioflamingo3,
    "Phi4Multimodal": phi4_multimodal,
    "Voxtral": voxtral,
}
