"""Conversations and audio: reading, creating and decoding them."""
