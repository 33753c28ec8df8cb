"""How the files beside this one were written, at commit 6722468.

    PYTHONPATH=.:tests python tests/saved_by_6722468/make.py

`tests/modeling/test_saved_files.py` loads them. They are never written again: they stand for what users have on disk.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tiny_models import LABELS, host_config, stir, tiny_processor, tiny_turns, tone
from transformers import Qwen2AudioConfig, Qwen2AudioForConditionalGeneration

from titans_mal import (
    ConversationAnalyzer,
    ConversationMemoryCache,
    Qwen2AudioMALConfig,
    Qwen2AudioMALForAudioEmotion,
    TitansMemoryConfig,
)


HERE = Path(__file__).parent
CALLS, ROWS, FRAMES = 3, 2, 40
IDS, SPEAKERS = [9, 3], [[0, 7], [7, 0], [0, 7]]
MEMORY = {"layers": [0, 1], "num_heads": 2, "head_dim": 4, "chunk_size": 3}
# Deep, by speaker, read by chunk, in full; and linear, by conversation, as an adapter.
FULL = {"depth": 2, "expansion": 2, "read": "chunk", "scope": "speaker", "max_speakers": 2}
ADAPTER = {"forget_half_life": 100.0, "step_rule": "paper", "initial_step": 0.02}


def small_host() -> dict:
    fields = host_config()
    fields["audio_config"] |= {"d_model": 8, "encoder_ffn_dim": 8}
    fields["text_config"] |= {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 3}
    return fields


def draw(call: int) -> dict:
    return tiny_turns(ROWS, seed=call, frames=[FRAMES, FRAMES - 9])


@torch.no_grad()
def run(model, folder: Path, *, by_speaker: bool) -> None:
    """Two calls into a saved state, and a third one after it."""
    cache, outputs = ConversationMemoryCache(model.config, batch_size=ROWS), {}
    for call in range(CALLS):
        if call == CALLS - 1:
            cache.save_pretrained(folder / "state")
        speakers = SPEAKERS[call] if by_speaker else None
        output = model(**draw(call), memory_cache=cache, conversation_ids=IDS, speaker_ids=speakers)
        outputs[f"{call}.emotion_logits"] = output.emotion_logits
        outputs[f"{call}.memory_surprise"] = output.memory_surprise
    save_file({name: tensor.contiguous() for name, tensor in outputs.items()}, folder / "outputs.safetensors")


def write_inputs() -> None:
    tensors = {}
    for call in range(CALLS):
        for name, tensor in draw(call).items():
            tensors[f"{call}.{name}"] = (tensor[..., :FRAMES] if "feature" in name else tensor).contiguous()
    save_file(tensors, HERE / "inputs.safetensors")


def main() -> None:
    torch.manual_seed(0)
    base, processor = HERE / "base", tiny_processor()
    Qwen2AudioForConditionalGeneration(Qwen2AudioConfig(**small_host())).save_pretrained(base)
    processor.save_pretrained(base)

    labels = dict(enumerate(LABELS))
    config = Qwen2AudioMALConfig(
        **small_host(), memory_config={**MEMORY, **FULL}, id2label=labels, emotion_readout="linear"
    )
    full = Qwen2AudioMALForAudioEmotion(config).eval()
    adapter = Qwen2AudioMALForAudioEmotion.from_base(
        base, id2label=labels, memory_config={**MEMORY, **ADAPTER}, emotion_prompt="emotion ?"
    ).eval()
    write_inputs()
    for name, model in (("full", full), ("adapter", adapter)):
        stir(model.titans_memory)
        model.save_pretrained(HERE / name)
        run(model, HERE / name, by_speaker=name == "full")

    analyzer = ConversationAnalyzer(adapter, processor)
    turns = [analyzer.push(tone(seconds, frequency=200 * seconds), 16_000, speaker="A") for seconds in (0.5, 0.75)]
    analyzer.save(HERE / "live")
    turns.append(analyzer.push(tone(1.0), 16_000, speaker="B"))
    scores = [turn.scores for turn in turns]
    (HERE / "live" / "scores.json").write_text(json.dumps(scores, indent=1) + "\n")

    TitansMemoryConfig(**MEMORY, **FULL).save_pretrained(HERE / "memory")
    config = HERE / "adapter" / "config.json"
    config.write_text(config.read_text().replace(str(HERE.parents[1]), "titans_mal"))  # the base's folder, wherever
    # The code that travels to the Hub is no concern here.
    for path in HERE.rglob("*.py"):
        if path.parent != HERE:
            path.unlink()


if __name__ == "__main__":
    main()
