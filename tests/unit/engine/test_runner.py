"""Under which engine the embedding's gradient is of the rows that were read only."""

from types import SimpleNamespace

import pytest
from accelerate.utils import DistributedType
from peft import LoraConfig, get_peft_model

from tests.unit.engine.small import model_of
from yangtuo.engine.runner import StepRunner


@pytest.mark.parametrize(
    ("kind", "num_processes", "is_sparse"),
    [
        (DistributedType.NO, 1, True),
        (DistributedType.MULTI_GPU, 1, True),  # torchrun on one GPU, where accelerate puts no DDP around the model
        (DistributedType.MULTI_GPU, 2, False),
        (DistributedType.MULTI_CPU, 1, False),
        (DistributedType.DEEPSPEED, 1, False),
        (DistributedType.FSDP, 1, False),
    ],
)
def test_a_sparse_gradient_where_nothing_exchanges_it(kind, num_processes, is_sparse):
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], modules_to_save=["embed_tokens"])
    base = get_peft_model(model_of("Llama"), config).get_base_model()
    accelerator = SimpleNamespace(distributed_type=kind, num_processes=num_processes)
    StepRunner(accelerator, SimpleNamespace(model=base), None, None, None)
    embedding = base.get_input_embeddings().modules_to_save["default"]
    assert embedding.sparse is is_sparse
