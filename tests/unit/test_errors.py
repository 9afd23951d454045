import ast
import re
from pathlib import Path

import pytest
import torch

import yangtuo
from yangtuo import errors
from yangtuo.errors import DataError, RunFailure, UserError, YangtuoError, is_out_of_memory

CLASSES = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, YangtuoError)]


def test_the_tree_in_the_docstring_is_the_tree_of_classes():
    drawn = re.findall(r"^    ([│ ├└─]*)([A-Z]\w+) ", errors.__doc__ or "", flags=re.MULTILINE)
    parents: list[str] = []
    for indent, name in drawn:
        depth = len(indent) // 4
        parents[depth:] = [name]
        assert [c.__name__ for c in getattr(errors, name).__mro__[depth::-1]] == parents
    assert [name for _, name in drawn] == [c.__name__ for c in CLASSES]


@pytest.mark.parametrize("kind", CLASSES)
def test_exit_codes(kind):
    assert kind.exit_code == (2 if issubclass(kind, UserError) else 1)
    assert kind is YangtuoError or issubclass(kind, UserError) != issubclass(kind, RunFailure)


def test_one_problem_is_one_line():
    error = DataError.of_problems("data", ["a.json row 3: bad"])
    assert type(error) is DataError
    assert str(error) == "data: a.json row 3: bad"


@pytest.mark.parametrize(("num", "last"), [(20, "  p19"), (21, "  ... and 1 more"), (500, "  ... and 480 more")])
def test_many_problems_are_counted_and_the_first_twenty_shown(num, last):
    lines = str(DataError.of_problems("data", [f"p{i}" for i in range(num)])).splitlines()
    assert lines[0] == f"data ({num} problems):"
    assert lines[1:21] == [f"  p{i}" for i in range(20)]
    assert lines[-1] == last
    assert len(lines) == 21 + (num > 20)


# ---- what is recommended

_SWITCHES = re.compile(
    r"--(?!force_learning_rate)(?:force|allow|ignore|skip)_\w+"
)  # each of them can give another model than was meant
_EXPLAINED = ("add", "add_argument", "option")  # an option's own help may tell what it does


def recommended(source):
    """Switches that a text of a source file names: not docstrings, not options, not that a switch was obeyed."""
    tree = ast.parse(source)
    left_out = {id(node) for call in ast.walk(tree) if _is_option(call) for node in ast.walk(call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            left_out.add(id(node.value))
    texts = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in left_out
    ]
    return [found[0] for text in texts if "taken nevertheless (--" not in text for found in _SWITCHES.finditer(text)]


def _is_option(node):
    name = getattr(node.func, "attr", getattr(node.func, "id", "")) if isinstance(node, ast.Call) else ""
    return name in _EXPLAINED


def test_no_message_names_a_switch_that_gives_a_wrong_model_as_the_way_out():
    folder = Path(yangtuo.__file__).parent
    found = {path: recommended(path.read_text(encoding="utf-8")) for path in folder.rglob("*.py")}
    assert len(found) > 100
    assert {path.name: switches for path, switches in found.items() if switches} == {}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('raise AdapterError(f"{text}; --force_base takes it nevertheless")', ["--force_base"]),
        ('hint = "add --allow_partial_adapter"', ["--allow_partial_adapter"]),
        ('logger.warning("%s; try --allow_new_vocabulary", folder)', ["--allow_new_vocabulary"]),
        ('"""`--force_base`: taken."""', []),
        ('add("--force_base", help="Take it though --allow_partial_adapter was not given.")', []),
        ('logger.warning("%s; taken nevertheless (--force_base)", text)', []),
    ],
)
def test_the_search_finds_a_recommendation_and_nothing_else(source, expected):
    assert recommended(source) == expected


# ---- memory


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("NPU out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_errors_of_memory_are_known_on_every_device(error, expected):
    assert is_out_of_memory(error) is expected


def test_what_a_library_has_made_of_it_is_known_too():
    """transformers raises another error where memory runs out while it quantises a weight."""
    with pytest.raises(RuntimeError) as raised:  # noqa: PT012  # one is raised because of the other
        try:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        except RuntimeError:
            raise RuntimeError("We encountered some issues during automatic conversion of the weights.")  # noqa: B904
    assert is_out_of_memory(raised.value)
