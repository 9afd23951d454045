"""Families of causal language models in bfloat16, see `walk`: one of each kind, with --all-families every one.

Which kinds there are is in docs/models.md, which the walk in float32 holds to what comes out.
"""

import pytest
import torch

from tests.command import REPOSITORY
from tests.invariants import walk

pytestmark = pytest.mark.filterwarnings("ignore")  # of kernels that are not installed
PAGE = (REPOSITORY / "docs" / "models.md").read_text(encoding="utf-8")


def pytest_generate_tests(metafunc):
    if "kind" in metafunc.fixturenames:
        is_all = metafunc.config.getoption("all_families")
        metafunc.parametrize("kind", walk.FAMILIES if is_all else walk.sample(PAGE))


def test_a_family_is_trained_and_merged_as_plain_peft_has_it(kind, tmp_path):
    try:
        found = walk.walked(kind, tmp_path, torch.bfloat16)
    except walk.LeftOut:
        assert kind not in walk.trained_families(PAGE)  # which names the others, with the reason
    else:
        walk.check(found, torch.bfloat16)


def test_the_sample_has_every_kind():
    families, chosen = walk.trained_families(PAGE), walk.sample(PAGE)
    assert {families[kind][:2] for kind in chosen} == {cells[:2] for cells in families.values()}
    assert set(walk.OF_THEIR_OWN) <= set(chosen) < set(families) < set(walk.FAMILIES)


def test_of_two_families_alike_the_sample_has_the_first_and_those_with_something_of_their_own():
    lines = [
        *("| family | rows | LoRA on |", "|---|---|---|"),
        *("| `a` | shared | usual |", "| `b` | shared | usual |", "| `c` | padded | usual |"),
        *("| `d` | shared | x_proj |", "| `llama` | shared | usual |", "", "| family | why |", "| `e` | refused |"),
    ]
    assert walk.sample("\n".join(lines)) == ["a", "c", "d", "llama"]
