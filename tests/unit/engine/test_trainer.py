"""What we override of transformers' Trainer, and what we call of it that is private: all of it, by name and parameters.

A new version of transformers that has another signature there fails here, and not in the middle of somebody's run.
"""

import inspect
import re

import pytest
from transformers import Trainer

from yangtuo.engine.trainer import StepTrainer

METHODS = {
    "_prepare_for_training": "self max_steps train_dataloader resume_from_checkpoint",
    "_run_epoch": (
        "self model epoch train_dataloader steps_in_epoch num_update_steps_per_epoch trial "
        "ignore_keys_for_eval start_time resume_from_checkpoint epochs_trained "
        "steps_trained_in_current_epoch"
    ),
    "create_optimizer": "self model",
    "_load_from_checkpoint": "self resume_from_checkpoint model",
    "_load_rng_state": "self checkpoint",
    "_load_best_model": "self",
    "get_train_dataloader": "self",
    "num_examples": "self dataloader",
    "get_total_train_batch_size": "self args",
    "floating_point_ops": "self inputs",
    "training_step": "self model inputs num_items_in_batch",
    "evaluate": "self eval_dataset ignore_keys metric_key_prefix",
    "_save_checkpoint": "self model trial",
    "save_model": "self output_dir _internal_call",
    "log": "self logs start_time",
    "_maybe_log_save_evaluate": (
        "self tr_loss grad_norm model trial epoch ignore_keys_for_eval start_time learning_rate"
    ),
    "_push_from_checkpoint": "self checkpoint_folder",
}


def overridden_or_private(source):
    """Methods of the Trainer that a subclass with this source overrides, and private ones that it calls."""
    defined = set(re.findall(r"^    def (\w+)", source, flags=re.M))
    called = set(re.findall(r"(?:self|super\(\))\.(_\w+)\(", source))
    return {name for name in defined | called if hasattr(Trainer, name)} - {"__init__"}


def test_every_method_is_listed():
    assert overridden_or_private(inspect.getsource(StepTrainer)) == METHODS.keys()


@pytest.mark.parametrize("name", METHODS)
def test_the_trainer_has_it_with_these_parameters(name):
    assert " ".join(inspect.signature(getattr(Trainer, name)).parameters) == METHODS[name]


def test_an_unlisted_one_would_be_found():
    source = "class Twin(Trainer):\n    def compute_loss(self):\n        self._push_from_checkpoint()\n"
    assert overridden_or_private(source) == {"compute_loss", "_push_from_checkpoint"}
