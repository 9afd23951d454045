import numpy as np
import pytest
import torch

from tests.unit.engine.small import examples_of, model_of
from yangtuo.engine.layout import pad, share
from yangtuo.engine.neftune import EmbeddingNoise

ALPHA, HIDDEN = 5.0, 32


def noise_of(model, noise, layout, seed=0):
    """What is added to the embeddings of a layout: [B, T, H]."""
    ids = torch.from_numpy(layout.input_ids)
    embedding = model.get_input_embeddings()
    noise.row_lengths = torch.from_numpy(layout.row_lengths)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        return embedding(ids) - embedding.weight[ids]


@pytest.fixture
def noisy():
    model = model_of("Llama")
    return model.train(), EmbeddingNoise(model, ALPHA)


ROWS = ([1, 5], [2]), ([1], [6] * 98 + [2])
BOUNDS = [ALPHA / (3 * HIDDEN) ** 0.5, ALPHA / (100 * HIDDEN) ** 0.5]


def test_the_bound_is_that_of_a_row_s_own_length(noisy):
    layout = pad(examples_of(*ROWS), [0, 1], np.ones(2))
    added = noise_of(*noisy, layout)
    for b, (length, bound) in enumerate(zip((3, 100), BOUNDS, strict=True)):
        of_row = added[b, :length].abs()
        assert 0.9 * bound < float(of_row.max()) < bound * 1.001
        assert float(of_row.mean()) == pytest.approx(bound / 2, rel=0.25)


def test_a_row_s_noise_does_not_depend_on_its_neighbours(noisy):
    examples = examples_of(*ROWS)
    bounds = [
        float(noise_of(*noisy, pad(examples, rows, np.ones(len(rows))), seed)[0, :3].abs().max())
        for rows in ([0], [0, 1])
        for seed in range(3)
    ]
    assert max(bounds) < BOUNDS[0] * 1.001
    assert min(bounds) > BOUNDS[0] * 0.9  # scaled by the padded length it would be a sixth


def test_every_cell_of_a_tree_has_the_bound_of_a_row_that_it_belongs_to(noisy):
    layout = share(examples_of(*ROWS), [0, 1], np.ones(2))
    added = noise_of(*noisy, layout)[0].abs().amax(-1)
    for row, bound in zip(layout.sequences, BOUNDS, strict=True):
        own = row[1:]  # the first cell is that of both
        assert (added[own] < bound * 1.001).all()
        assert added[own].max() > bound * 0.9


def test_noise_is_centred_and_other_at_each_forward(noisy):
    layout = pad(examples_of(*ROWS), [1], np.ones(1))
    one, other = noise_of(*noisy, layout, seed=0), noise_of(*noisy, layout, seed=1)
    assert not torch.equal(one, other)
    assert abs(float(one.mean())) < 6 * BOUNDS[1] / (3 * one.numel()) ** 0.5


def test_none_in_evaluation(noisy):
    model, noise = noisy
    layout = pad(examples_of(*ROWS), [0, 1], np.ones(2))
    model.eval()
    assert not noise_of(model, noise, layout).any()
    model.train()
    assert noise_of(model, noise, layout).any()


@pytest.mark.parametrize("alpha", [None, 0.0])
def test_none_where_none_is_wanted(alpha):
    model = model_of("Llama").train()
    noise = EmbeddingNoise(model, alpha)
    assert not noise_of(model, noise, pad(examples_of(*ROWS), [0, 1], np.ones(2))).any()
    assert not model.get_input_embeddings()._forward_hooks


def test_the_number_format_stays(noisy):
    model, noise = noisy
    model.to(torch.bfloat16)
    assert noise_of(model, noise, pad(examples_of(*ROWS), [0, 1], np.ones(2))).dtype == torch.bfloat16
