"""Every family of causal language models in float32, see `walk`; docs/models.md is what comes out."""

import pytest
import torch

from tests.command import REPOSITORY
from tests.invariants import walk

pytestmark = pytest.mark.filterwarnings("ignore")  # of kernels that are not installed
PAGE = REPOSITORY / "docs" / "models.md"


@pytest.fixture(scope="module")
def found():
    return {}


@pytest.mark.parametrize("kind", walk.FAMILIES)
def test_a_family_is_trained_and_merged_as_plain_peft_has_it(kind, found, tmp_path):
    try:
        found[kind] = walk.walked(kind, tmp_path, torch.float32)
    except walk.LeftOut as reason:
        found[kind] = str(reason)
    else:
        walk.check(found[kind], torch.float32)


def test_the_page_of_models_is_what_came_out(found, request):
    if len(found) < len(walk.FAMILIES):
        pytest.skip("only some families were chosen")
    text = walk.page(PAGE.read_text(encoding="utf-8"), found)
    if request.config.getoption("renew_models"):
        PAGE.write_text(text, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == text
