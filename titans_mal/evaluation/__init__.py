"""Evaluation of a model with memory on whole conversations, with control conditions, baselines and floors."""
