"""What a Hub repository shows beside a model: card templates and what runs there, as package data."""
