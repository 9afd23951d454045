"""yangtuo (羊驼): instruction-tune Chinese LLaMA-family models with LoRA.

The command line is `yangtuo` (`cli/`, a file a verb); the story of a training run is `training/run.py`.
"""

__version__ = "0.1.0"
