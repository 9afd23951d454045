import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests import tiny
from tests.command import Finished, log_of
from tests.command import run as run_command

RUN = {"per_device_train_batch_size": 8, "max_steps": 6}


def pytest_collection_modifyitems(items):
    reason = "no CUDA device here"
    for item in items:
        if "tests/gpu/" in item.path.as_posix() and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason=reason))


@dataclass(frozen=True)
class Trained:
    """A run that has ended: its steps, and what it said."""

    steps: list[dict]
    done: Finished

    @property
    def losses(self) -> list[float]:
        return [step["loss"] for step in self.steps]


@pytest.fixture(scope="session")
def new_base(inputs, tmp_path_factory):
    """Makes a base of a kind of transformers, its heads as wide as the kernel wants them."""
    import transformers

    def make(kind: str, **changes) -> Path:
        folder = tmp_path_factory.mktemp("gpu") / "base"
        sizes = transformers.AutoConfig.from_pretrained(inputs.base).to_dict()
        names = ("vocab_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "bos_token_id")
        kept = {name: sizes[name] for name in (*names, "eos_token_id", "max_position_embeddings")}
        config = transformers.AutoConfig.for_model(
            kind, **{**kept, "hidden_size": 128, "intermediate_size": 256, "head_dim": 32, **changes}
        )
        torch.manual_seed(0)
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        return tiny.tiny_sentencepiece(folder)

    return make


@pytest.fixture(scope="session")
def base(new_base):
    return new_base("llama")


@pytest.fixture
def train(inputs, base, tmp_path):
    """Runs `yangtuo train` in a folder of that name; `first` is code that its process begins with.

    Not by a fork, as elsewhere: what is imported may have looked at the GPU, and then no child can use it.
    """

    def run(name: str, *, expect: int = 0, first: str = "", **changes) -> Trained:
        options = inputs.options(tmp_path / name, **{**RUN, "model_name_or_path": base, **changes})
        code = f"{first}\nimport sys\nfrom yangtuo.cli import main\nsys.exit(main())"
        done = run_command([sys.executable, "-c", code, "train", *options])
        assert done.code == expect, done.said
        return Trained(log_of(tmp_path / name) if not expect else [], done)

    return run
