"""Talking with a model: the crisis path, style, hidden reflection, memory, and `rapport chat`."""
