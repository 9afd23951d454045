"""Which hub is asked, and when a mirror is one; fetching itself is in `tests/cli/test_hubs.py`."""

import argparse
import os

import pytest

from yangtuo.cli import VERBS, module_of
from yangtuo.config.choices import Hub
from yangtuo.config.parser import build_parser
from yangtuo.model import hubs


@pytest.mark.parametrize(
    ("asked", "variable", "hub"),
    [
        (Hub.AUTO, None, Hub.HUGGINGFACE),
        (Hub.AUTO, "0", Hub.HUGGINGFACE),
        (Hub.AUTO, "1", Hub.MODELSCOPE),
        (Hub.AUTO, "True", Hub.MODELSCOPE),
        (Hub.HUGGINGFACE, "1", Hub.HUGGINGFACE),
        (Hub.MODELSCOPE, None, Hub.MODELSCOPE),
    ],
)
def test_the_option_decides_and_then_the_variable(asked, variable, hub, monkeypatch):
    monkeypatch.delenv("USE_MODELSCOPE_HUB", raising=False)
    if variable is not None:
        monkeypatch.setenv("USE_MODELSCOPE_HUB", variable)
    assert hubs.hub_of(asked) is hub


@pytest.mark.parametrize(
    ("endpoint", "given", "left"),
    [
        ("https://hf-mirror.com", None, "1"),
        ("https://hf-mirror.com", "0", "0"),
        ("http://10.0.0.7:8080/huggingface.co", None, "1"),
        ("https://huggingface.co.example.com", None, "1"),
        ("https://huggingface.co", None, None),
        ("https://huggingface.co/", None, None),
        ("https://hub-ci.huggingface.co", None, None),
        ("", None, None),
    ],
)
def test_xet_is_off_with_a_mirror_unless_the_user_has_decided(endpoint, given, left, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "")  # so that it is put back afterwards
    monkeypatch.delenv("HF_HUB_DISABLE_XET")
    if given is not None:
        monkeypatch.setenv("HF_HUB_DISABLE_XET", given)
    hubs.keep_to_mirror()
    assert os.environ.get("HF_HUB_DISABLE_XET") == left


_WITHOUT = ("check-deploy", "vocab", "cache", "demo", "doctor", "report")


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in _WITHOUT])
def test_every_verb_that_takes_a_model_by_name_takes_its_hub(verb):
    module = module_of(verb)
    parser = build_parser("it") if verb in ("train", "check", "preview", "encode") else argparse.ArgumentParser()
    if verb not in ("train", "check", "preview", "encode"):
        module.add_options(parser)
    (action,) = (action for action in parser._actions if action.dest == "hub")
    assert (action.choices, action.default) == (["auto", "huggingface", "modelscope"], "auto")
