"""Estimate the memory of a training step of Qwen2-Audio in bfloat16 with a LoRA, by a dry run on the meta device.

python examples/finetune/estimate_memory.py
"""

from __future__ import annotations

import torch

from titans_mal import Qwen2AudioMALConfig, Qwen2AudioMALForAudioEmotion, TitansMemoryConfig
from titans_mal.training import choose_trained_parts
from titans_mal.training.memory_estimate import StepShape, estimate_training_memory


# Of Qwen/Qwen2-Audio-7B-Instruct.
TEXT = {
    "model_type": "qwen2",
    "vocab_size": 156_032,
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "tie_word_embeddings": False,
}
TOKENS_PER_SECOND, PROMPT_TOKENS = 25, 30


def qwen2_audio_on_meta(*, rank: int = 16) -> Qwen2AudioMALForAudioEmotion:
    """The host in bfloat16 with memory on three blocks and a LoRA, without a weight."""
    config = Qwen2AudioMALConfig(
        text_config=TEXT,
        memory_config=TitansMemoryConfig(layers=[8, 16, 24]),
        id2label={0: "neutral", 1: "happy", 2: "sad", 3: "angry"},
        label_token_ids=[1, 2, 3, 4],
        adapter_only=True,
    )
    with torch.device("meta"):
        model = Qwen2AudioMALForAudioEmotion(config)
        model.to(torch.bfloat16)
        choose_trained_parts(model, lora_rank=rank)
    return model


def shape_of(seconds: int, *, window: int = 8) -> StepShape:
    """One lane of turns of a length."""
    audio_tokens = seconds * TOKENS_PER_SECOND
    return StepShape(lanes=1, window=window, positions=audio_tokens + PROMPT_TOKENS, audio_tokens=audio_tokens)


def main() -> None:
    model = qwen2_audio_on_meta()
    print("| turns of | weights | gradients and AdamW | activations | memory layers | together |")
    print("| --- | --- | --- | --- | --- | --- |")
    for seconds in (10, 30):
        estimate = estimate_training_memory(model, shape_of(seconds), gradient_checkpointing=True)
        trained = estimate.gradients + estimate.optimizer
        parts = (estimate.weights, trained, estimate.activations, estimate.memory, estimate.total)
        print(f"| {seconds} s | " + " | ".join(f"{part / 2**30:.2f} GiB" for part in parts) + " |")


if __name__ == "__main__":
    main()
