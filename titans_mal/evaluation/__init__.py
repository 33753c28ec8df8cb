"""Numbers that can be trusted: a model with memory on whole conversations, beside its controls and floors."""
