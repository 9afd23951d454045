"""A training run from its settings to its proof; `run` tells the story."""
