"""The host of the tiny checkpoint: a Qwen2-Audio of 665,000 parameters, and its processor."""

from __future__ import annotations

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    WhisperFeatureExtractor,
)

from titans_mal.data.synthetic.suites import EMOTIONS


PROMPT = "emotion ?"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|> {{ message['role'] }} "
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|> {% else %}{{ part['text'] }} {% endif %}"
    "{% endfor %}<|im_end|> {% endfor %}{% if add_generation_prompt %}<|im_start|> assistant {% endif %}"
)
# Words after the emotion in the answers that the host is trained on: bins of acoustic features.
PITCH_WORDS = [f"pitch{i}" for i in range(12)]
LEVEL_WORDS = [f"level{i}" for i in range(12)]
TRACT_WORDS = [f"tract{i}" for i in range(6)]


def build_processor() -> Qwen2AudioProcessor:
    """A word-level tokenizer and a log-mel front end of 12.5 tokens a second, at most 3 s a turn."""
    special = ["<pad>", "<|im_start|>", "<|im_end|>", "<|audio_bos|>", "<|audio_eos|>", "<|AUDIO|>", "<unk>"]
    words = ["user", "assistant", *PROMPT.split(), *EMOTIONS, *PITCH_WORDS, *LEVEL_WORDS, *TRACT_WORDS]
    vocabulary = {word: index for index, word in enumerate([*special, *words])}
    words_only = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words_only.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words_only,
        pad_token="<pad>",
        eos_token="<|im_end|>",
        unk_token="<unk>",
        additional_special_tokens=special[1:-1],
        padding_side="left",
    )
    extractor = WhisperFeatureExtractor(feature_size=64, n_fft=1024, hop_length=320, chunk_length=3)
    return Qwen2AudioProcessor(extractor, tokenizer, chat_template=CHAT_TEMPLATE)


def build_host(processor: Qwen2AudioProcessor) -> Qwen2AudioForConditionalGeneration:
    tokenizer, extractor = processor.tokenizer, processor.feature_extractor
    config = Qwen2AudioConfig(
        audio_config={
            "model_type": "qwen2_audio_encoder",
            "num_mel_bins": extractor.feature_size,
            "max_source_positions": extractor.nb_max_frames // 2,
            "d_model": 96,
            "encoder_layers": 2,
            "encoder_attention_heads": 4,
            "encoder_ffn_dim": 192,
        },
        text_config={
            "model_type": "qwen2",
            "vocab_size": len(tokenizer),
            "hidden_size": 96,
            "intermediate_size": 256,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "max_position_embeddings": 512,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "tie_word_embeddings": False,
        },
        audio_token_index=processor.audio_token_id,
    )
    return Qwen2AudioForConditionalGeneration(config)
