"""What several tests of the documentation look at."""

import argparse

import pytest

from yangtuo.cli import OF_A_RUN, VERBS, module_of
from yangtuo.config.parser import build_parser
from yangtuo.config.words import Parser


def parsers_of(verb: str) -> list[argparse.ArgumentParser]:
    """The parser of a verb, and those of the verbs below it."""
    module = module_of(verb)
    if verb in OF_A_RUN:
        return [build_parser(f"yangtuo {verb}", module.add_options)]
    parser = Parser(f"yangtuo {verb}")
    module.add_options(parser)
    below = [action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return [parser, *(sub for choices in below for sub in choices.values())]


@pytest.fixture(scope="session")
def options() -> set[str]:
    """Every option of every verb, without its dashes."""
    actions = [action for verb in VERBS for parser in parsers_of(verb) for action in parser._actions]
    return {option[2:] for action in actions for option in action.option_strings if option.startswith("--")}
