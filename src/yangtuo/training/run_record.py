"""What run.json says of a run: who ran what, with which options, libraries and machine."""

import os
import platform
import socket
import sys
import time
from importlib.metadata import version
from typing import Any

import yangtuo
from yangtuo.config.settings import Settings, as_dict, without_secrets
from yangtuo.logs import notes_with_chinese, world_size


def versions() -> dict[str, str]:
    """Of Python and of the libraries that compute."""
    libraries = ("torch", "transformers", "peft", "accelerate", "sentencepiece", "tokenizers", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in libraries}}


def run_record(settings: Settings, recipe: dict[str, Any], seed: int, began: float) -> dict[str, Any]:
    """What run.json says of a run that has begun; `began` is time.time()."""
    return {
        "yangtuo": yangtuo.__version__,
        "state": "running",
        "command": without_secrets(sys.argv),
        "working_directory": os.getcwd(),
        "process": f"process {os.getpid()} on {socket.gethostname()}",
        "began": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(began)),
        "versions": versions(),
        "world_size": world_size(),
        "seed": seed,
        "arguments": as_dict(settings),
        "recipe": recipe,
        **notes_with_chinese(),
    }
