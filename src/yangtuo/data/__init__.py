"""From files to token ids. Imports neither torch nor transformers, so that looking at data starts fast."""
