"""Imports point one way, and what only looks at data starts without torch."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import yangtuo
from tests.unit.config.test_parser import SEED_PAGE

SOURCE = Path(yangtuo.__file__).parent
MODULES = {
    ".".join(("yangtuo", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(SOURCE.rglob("*.py"))
}


def imported(source):
    """Every dotted name that a file imports, also inside functions; `from a import b` gives `a` and `a.b`."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


IMPORTS = {module: imported(path.read_text(encoding="utf-8")) for module, path in MODULES.items()}


def lies_in(name, *packages):
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def offences(part, *forbidden, imports=IMPORTS):
    """What modules of `part` import from the forbidden packages."""
    return {
        module: found
        for module, names in imports.items()
        if lies_in(module, f"yangtuo.{part}") and (found := sorted(name for name in names if lies_in(name, *forbidden)))
    }


def others(*allowed):
    """The parts of yangtuo besides these."""
    tops = {".".join(module.split(".")[:2]) for module in MODULES} - {"yangtuo"}
    return sorted(tops - {f"yangtuo.{name}" for name in allowed})


CONFIG = [module.split(".")[2] for module in MODULES if lies_in(module, "yangtuo.config") and module.count(".") > 1]
CONFIG.remove("transformers_help")
SLOW = ("torch", "transformers", "peft", "accelerate")
TOP = ("errors", "i18n", "installing", "logs", "output")
EVALUATION = (
    *(
        "comparison",
        "llamafactory_scores",
        "measures",
        "own_data",
        "probe_checks",
        "probe_items",
        "probing",
    ),
    *("quantiles", "records", "results", "statistics", "tasks", "text_scores", "verdict"),
)
# Each package may import those to its right; what stands in one line does not know the others of that line.
LAYERS = {
    "config": TOP,
    "data": ("config", *TOP),
    "model": ("data", "config", *TOP),
    "engine": ("model", "data", "config", *TOP),
    "inference": ("engine", "model", "data", "config", *TOP),
    "merging": ("model", "data", "config", *TOP),
    "vocab": ("model", "data", "config", *TOP),
    "report": ("config", *TOP),
    "training": ("engine", "inference", "model", "data", "config", *TOP),
    "diagnosis": ("engine", "model", "data", "config", *TOP),
    "evaluation": ("inference", "engine", "model", "data", "config", *TOP),
    "exporting": ("merging", "inference", "engine", "model", "data", "config", *TOP),
    "api": (
        *("training", "evaluation", "exporting", "merging", "report", "inference", "engine", "model", "data", "config"),
        *TOP,
    ),
}

RULES = {
    "errors": [*SLOW, *others("errors", "i18n")],
    "i18n": [*SLOW, "yangtuo"],
    "logs": ["torch", "peft", "accelerate", *others("logs", "i18n")],
    "installing": [*SLOW, *others()],
    "output": [*SLOW, *others("errors", "i18n")],
    **{part: others(part, *below) for part, below in LAYERS.items()},
    **{f"config.{name}": SLOW for name in CONFIG},  # but for the words of transformers, which only --help wants
    "config.choices": [*SLOW, "yangtuo"],
    "config.schema": [*SLOW, *others("config")],
    "data": [*SLOW, *others("data", *LAYERS["data"])],
    **{f"engine.{name}": SLOW for name in ("planning", "layout", "step_log", "checkpoint")},
    **{f"evaluation.{name}": SLOW for name in EVALUATION},  # what needs no model
    "report": [*SLOW, *others("report", *LAYERS["report"])],
    **{f"training.{name}": SLOW for name in ("preflight", "dataset", "run_folder", "paths")},
    **dict.fromkeys(("inference.places", "merging.options", "exporting.kinds", "model.adapter_folder"), SLOW),
    # A torch that cannot be imported is one of its findings; only `hardware` has it, and is imported after a trial.
    **{f"diagnosis.{name}": SLOW for name in ("diagnose", "environment", "finding", "machine", "packages")},
}


@pytest.mark.parametrize("part", RULES)
def test_a_part_imports_only_what_lies_below_it(part):
    assert any(lies_in(module, f"yangtuo.{part}") for module in MODULES)
    assert offences(part, *RULES[part]) == {}


def test_only_the_engine_knows_the_trainer_and_only_help_the_words_of_transformers():
    def users(name):
        return [module for module, names in IMPORTS.items() if name in names]

    assert users("transformers.Trainer") == ["yangtuo.engine.trainer"]
    assert users("transformers.HfArgumentParser") == []
    assert users("yangtuo.config.transformers_help") == ["yangtuo.config.parser"]  # in a function


def test_nothing_imports_the_command_line():
    users = {module for module, names in IMPORTS.items() if any(lies_in(name, "yangtuo.cli") for name in names)}
    assert {module for module in users if not lies_in(module, "yangtuo.cli")} == {"yangtuo.__main__"}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import torch", ["torch"]),
        ("from torch import nn", ["torch", "torch.nn"]),
        ("def f():\n    from yangtuo import model\n", ["yangtuo.model"]),
        ("def f():\n    import yangtuo.engine.loss as loss\n", ["yangtuo.engine.loss"]),
        ("import torchvision, yangtuo.data.records", []),
    ],
)
def test_a_broken_twin_is_found(source, found):
    twin = {"yangtuo.data.twin": imported(source), "yangtuo.database": {"torch"}}
    assert offences("data", *RULES["data"], imports=twin) == ({"yangtuo.data.twin": found} if found else {})


# Run one after the other in one fresh interpreter, which tells after each which slow libraries it has.
STAGES = {
    "import what looks at data": "import yangtuo, yangtuo.cli, yangtuo.config.schema, yangtuo.engine.planning, "
    "yangtuo.engine.layout, yangtuo.config.parser, "
    + ", ".join(module for module in MODULES if lies_in(module, "yangtuo.data")),
    "parse": """
from yangtuo.config.parser import *
from yangtuo.config.settings import as_dict
parser = build_parser("yangtuo check")
as_dict(parse(words, parser)[0])""",
    "print the short help": "parser.print_help()",
    "make the long help": "parser.format_long_help()",
    "import what computes": "import yangtuo.engine.batch_tensors",
}


def test_a_command_line_is_parsed_and_data_is_read_without_torch(tmp_path):
    """Only the help in full has the words of transformers."""
    file = tmp_path / "run.yaml"
    file.write_text("lr_scheduler_kwargs: {num_cycles: 0.25}\nlabel_smoothing_factor: 0.1\ntrainable: [q_proj]\n")
    code = f"import sys, json\nwords, shared, loaded = {[str(file), *SEED_PAGE.split()]!r}, {{}}, []\n"
    code += f"shared['words'] = words\nfor stage in {list(STAGES.values())!r}:\n    exec(stage, shared)\n"
    code += (
        "    loaded.append([name for name in ('torch', 'transformers', 'peft', 'accelerate') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nprint(json.dumps(loaded))"], capture_output=True, text=True, check=True
    )
    data, parse, short, long, compute = json.loads(done.stdout.splitlines()[-1])
    assert data == parse == short == []
    assert "transformers" in long
    assert "torch" in compute
