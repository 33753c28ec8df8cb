"""A host made of Whisper's encoder and the first blocks of a small language model."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, WhisperFeatureExtractor, WhisperModel

from titans_mal.data.audio import load_turn
from titans_mal.modeling.turn_scoring import TurnScorer


# The tokens of audio, the placeholder first, and what a prompt has in place of audio.
ARCHITECTURES = {
    "Qwen2Audio": (("<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"), "<|audio_bos|><|AUDIO|><|audio_eos|>"),
    "AudioFlamingo3": (("<sound>",), "<sound>"),
}
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'audio' %}AUDIO{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Whisper has positions for 30 s; the utterances are short, and every position costs.
WINDOW_SECONDS = 10


def make_host(
    whisper: str,
    language_model: str,
    blocks: int,
    folder: Path,
    *,
    encoder_blocks: int | None = None,
    architecture: str = "Qwen2Audio",
) -> None:
    """Write a host of Whisper's encoder and the first blocks of a language model; its projector is fresh.

    Args:
        whisper, language_model: folders or Hub repos.
        blocks: number of blocks of the language model, from the first.
        folder: of the host and its processor.
        encoder_blocks: number of blocks of the encoder, from the first; None: all.
        architecture: a key of `ARCHITECTURES`.
    """
    tokens, in_prompt = ARCHITECTURES[architecture]
    encoder = WhisperModel.from_pretrained(whisper).encoder
    text = AutoModelForCausalLM.from_pretrained(language_model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(language_model)
    tokenizer.add_special_tokens({"additional_special_tokens": list(tokens)})
    torch.manual_seed(0)  # of the new tokens' embeddings
    text.resize_token_embeddings(len(tokenizer))
    audio = encoder.config
    audio.encoder_layers = encoder_blocks or audio.encoder_layers
    del encoder.layers[audio.encoder_layers :]
    positions = 50 * WINDOW_SECONDS
    torch.manual_seed(0)
    host = _host_of(
        architecture,
        audio_config={"num_mel_bins": audio.num_mel_bins, "max_source_positions": positions},
        encoder=audio,
        text_config=text.config.to_dict() | {"num_hidden_layers": blocks, "tie_word_embeddings": False},
        placeholder=tokenizer.convert_tokens_to_ids(tokens[0]),
    )
    weights = encoder.state_dict()
    weights["embed_positions.weight"] = weights["embed_positions.weight"][:positions]
    _load(host.audio_tower if hasattr(host, "audio_tower") else host.model.audio_tower, weights)
    decoder = {key.removeprefix("model."): value for key, value in text.state_dict().items()}
    is_kept = lambda key: not key.startswith("layers.") or int(key.split(".")[1]) < blocks  # noqa: E731
    _load(
        host.get_decoder(), {key: value for key, value in decoder.items() if is_kept(key) and key != "lm_head.weight"}
    )
    host.lm_head.weight.data.copy_(text.lm_head.weight)
    host.save_pretrained(folder)
    extractor = WhisperFeatureExtractor(
        feature_size=audio.num_mel_bins, chunk_length=WINDOW_SECONDS, return_attention_mask=True
    )
    processor_class = getattr(transformers, f"{architecture}Processor")
    template = CHAT_TEMPLATE.replace("AUDIO", in_prompt)
    processor_class(extractor, tokenizer, chat_template=template).save_pretrained(folder)


def _host_of(architecture: str, *, audio_config: dict, encoder, text_config: dict, placeholder: int):
    """A host with random weights, whose tower has the shape of Whisper's encoder under the names of its own fields."""
    if architecture == "Qwen2Audio":
        sizes = {name: getattr(encoder, name) for name in ("encoder_layers", "encoder_attention_heads", "d_model")}
        tower = {"model_type": "qwen2_audio_encoder", "encoder_ffn_dim": encoder.encoder_ffn_dim} | sizes
        fields = {"audio_token_index": placeholder}
    else:
        tower = {
            "model_type": "audioflamingo3_encoder",
            "num_hidden_layers": encoder.encoder_layers,
            "num_attention_heads": encoder.encoder_attention_heads,
            "intermediate_size": encoder.encoder_ffn_dim,
            "hidden_size": encoder.d_model,
        }
        fields = {"audio_token_id": placeholder}
    config_class = getattr(transformers, f"{architecture}Config")
    host_class = getattr(transformers, f"{architecture}ForConditionalGeneration")
    return host_class(config_class(audio_config=tower | audio_config, text_config=text_config, **fields))


def _load(module: torch.nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Every weight of the module, which must all be given."""
    missing, unexpected = module.load_state_dict(weights, strict=False)
    if missing or unexpected:
        raise ValueError(
            f"The weights do not fit {type(module).__name__}: missing {missing}, unexpected {unexpected}."
        )


@torch.no_grad()
def whiten_projector(model: PreTrainedModel, processor, table: Dataset, *, turns: int = 240, seed: int = 0) -> None:
    """Let a fresh projector whiten the audio tower's outputs, at the scale of the word embeddings.

    A few directions of the outputs of Whisper's encoder have most of their variance; after whitening, all directions
    have the same scale.

    Args:
        model, processor, table: as `train_on_utterances` takes them.
        turns: number of turns, drawn from the table, whose outputs give mean and covariance.
        seed: of the turns, and of the rotation after whitening.
    """
    scorer, frames, given = TurnScorer(model, processor), list[torch.Tensor](), list[torch.Tensor]()
    projector = projector_of(model)
    hook = projector.register_forward_pre_hook(lambda module, args: given.append(args[0]))
    rows = torch.randperm(len(table), generator=torch.Generator().manual_seed(seed))[:turns].tolist()
    try:
        for start in range(0, len(rows), 24):
            waveforms = [load_turn(table[row]["audio"], scorer.sampling_rate) for row in rows[start : start + 24]]
            inputs, _ = scorer.inputs(waveforms)
            with model.disable_memory():
                model(**inputs, logits_to_keep=1)
            # A turn has as many audio tokens as its audio has positions; the others are padding.
            counts = model.audio_mask(inputs["input_ids"], dict(inputs)).sum(1).tolist()
            frames += [positions[:count].double().cpu() for positions, count in zip(given.pop(), counts)]
    finally:
        hook.remove()
    mean, covariance = torch.cat(frames).mean(0), torch.cov(torch.cat(frames).T)
    variances, directions = torch.linalg.eigh(covariance)
    # Directions without variance are noise.
    whitening = (directions / variances.clamp(min=1e-5 * float(variances.max())).sqrt()).T
    linear = projector.linear
    torch.manual_seed(seed)
    rotation, _ = torch.linalg.qr(torch.randn(linear.out_features, len(whitening), dtype=torch.float64))
    scale = model.get_input_embeddings().weight.double().std() * (linear.out_features / len(whitening)) ** 0.5
    weight = scale.cpu() * rotation @ whitening
    linear.weight.copy_(weight)
    linear.bias.copy_(-weight @ mean)


def projector_of(model: PreTrainedModel) -> torch.nn.Module:
    """The module between audio tower and language model."""
    return model.get_submodule(next(n for n, _ in model.named_modules() if n.endswith("multi_modal_projector")))
