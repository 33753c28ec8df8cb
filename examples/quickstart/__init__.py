"""A tiny checkpoint, a conversation of synthetic voices, and the demo; installed as `titans_mal.quickstart`."""

from pathlib import Path


TINY_CHECKPOINT = Path(__file__).resolve().parent / "tiny-qwen2-audio-mal"
CONVERSATION = Path(__file__).resolve().parent / "conversation"
