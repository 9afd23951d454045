"""Every family in every dtype: those that share prefixes do, and the trial alone finds out those that must not."""

import pytest
import torch

from tests.invariants.families import PADDED, SHARING, model_of, rows
from yangtuo.engine import probe
from yangtuo.engine.layer_kinds import reason_not_to_share
from yangtuo.engine.loss import SupervisedLoss
from yangtuo.engine.steps import Execution

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
pytestmark = pytest.mark.filterwarnings("ignore")  # of kernels that are not installed


def tried(kind, dtype, *, by_name=False):
    """Distance of sharing, and whether it is used; without the look at the layers' names unless `by_name`."""
    model = model_of(kind, dtype)
    base = model.get_base_model()
    with pytest.MonkeyPatch.context() as patch, torch.autocast("cpu", dtype, enabled=dtype is not torch.float32):
        if not by_name:
            patch.setattr(probe, "reason_not_to_share", lambda _: None)
        found = probe.choose_shortcuts(model, base, SupervisedLoss(base), rows(), Execution(True, 1000))
    assert found.compared == "gradient"
    assert found.dtype == str(dtype).removeprefix("torch.")
    return found.distances.get(probe.SHARING), found


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("kind", SHARING)
def test_families_that_share_prefixes(kind, dtype):
    distance, found = tried(kind, dtype, by_name=True)
    assert found.shares_prefixes
    assert distance < 0.65 * found.limit
    assert probe.SHARING not in found.refused


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("kind", PADDED)
def test_families_that_must_not_are_found_out_by_the_gradient(kind, dtype):
    distance, found = tried(kind, dtype)
    assert not found.shares_prefixes
    assert distance is None or distance > 1.5 * found.limit
    assert found.pads_exactly


@pytest.mark.parametrize("kind", PADDED)
def test_and_by_the_names_of_their_layers(kind):
    assert reason_not_to_share(model_of(kind, torch.float32).get_base_model())
