"""A loaded model answers: load, generate, stream, hold a dialogue."""
