"""Conversations and sound: reading, making and decoding them."""
