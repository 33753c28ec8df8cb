"""A tiny checkpoint, a conversation of made-up voices, and the demo; `titans_mal.quickstart` where it is installed."""

from pathlib import Path


TINY_CHECKPOINT = Path(__file__).resolve().parent / "tiny-qwen2-audio-mal"
CONVERSATION = Path(__file__).resolve().parent / "conversation"
