# Short names for what the project's scripts do; `just` lists them (https://just.systems). Nothing needs it: each line
# can be typed as it stands. Every script makes the environment first, where there is none.

# this list
list:
    @just --list --unsorted

# make the environment .venv with the tested versions
setup:
    bash scripts/setup.sh

# style, types and the quick tests
fast *arguments:
    bash scripts/test.sh fast {{ arguments }}

# all tests, or those that are named
test *arguments:
    bash scripts/test.sh {{ arguments }}

# style and types
lint:
    bash scripts/in_env.sh bash scripts/lint.sh

# the site of the documentation, into site/; needs pip install -e '.[docs]'
docs:
    bash scripts/in_env.sh python -m mkdocs build --strict

# collect the messages into the Chinese catalogue, and compile it
catalogue:
    bash scripts/in_env.sh python scripts/catalogue.py

# write docs/cli.md and docs/cli.zh.md anew
reference:
    bash scripts/in_env.sh python scripts/cli_reference.py

# the package as it is released, into dist/; needs pip install -e '.[dev]'
wheel:
    bash scripts/in_env.sh python -m build

# train the demo
demo:
    bash scripts/run_sft.sh
