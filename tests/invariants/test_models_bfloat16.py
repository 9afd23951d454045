"""Every family of causal language models in bfloat16, see `walk`."""

import pytest
import torch

from tests.invariants import walk

pytestmark = pytest.mark.filterwarnings("ignore")  # of kernels that are not installed


@pytest.mark.parametrize("kind", walk.FAMILIES)
def test_a_family_is_trained_and_merged_as_plain_peft_has_it(kind, tmp_path):
    try:
        found = walk.walked(kind, tmp_path, torch.bfloat16)
    except walk.LeftOut:
        return  # docs/models.md names it, with the reason
    walk.check(found, torch.bfloat16, walk.config_of(kind))
