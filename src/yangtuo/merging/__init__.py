"""Adapters into their base: planned tensor by tensor, streamed through files, and verified."""
