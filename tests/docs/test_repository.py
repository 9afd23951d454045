"""Files for who works on the project: hooks, recipes, forms, the workflow and SECURITY.md name what there is."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.docs.test_docs import REPOSITORY, paths_of, text_of
from tests.docs.test_pages import spans_of

GITHUB = REPOSITORY / ".github"
FORMS = sorted(path for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")
# Programs that a machine has, and those of the project's environment with the package that brings them.
OF_THE_MACHINE = {"bash"}
OF_THE_ENVIRONMENT = {"python": None, "ruff": "ruff", "mypy": "mypy"}
RECIPES = ("setup", "fast", "test", "lint", "docs", "catalogue", "reference", "wheel", "demo")
MODULES = {"mkdocs": "mkdocs-material", "build": "build"}


def packages() -> set[str]:
    """All that the project's extras install."""
    extras = tomllib.loads(text_of("pyproject.toml"))["project"]["optional-dependencies"]
    return {re.split(r"[<>=\[]", spec)[0] for specs in extras.values() for spec in specs}


def missing(command: str) -> list[str]:
    """What a command names and there is not: its program, its script, the program that the script starts."""
    words = [word for word in shlex.split(command) if not word.startswith("{{")]
    if not words:
        return ["nothing to run"]
    program, *rest = words
    if program in OF_THE_MACHINE or (program == "python" and rest[:1] != ["-m"]):
        script = rest[0] if rest else ""
        if not (REPOSITORY / script).is_file():
            return [script]
        return missing(shlex.join(rest[1:])) if script == "scripts/in_env.sh" else []
    package = MODULES.get(rest[1]) if program == "python" else OF_THE_ENVIRONMENT.get(program)
    return [] if package in packages() else [shlex.join(words[:3])]


def recipes(text: str) -> dict[str, list[str]]:
    """Name -> lines of each recipe of a justfile."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in text.splitlines():
        if head := re.match(r"([a-z]+)(?: \*\w+)?:$", line):
            name = head[1]
            found[name] = []
        elif line.startswith("    "):
            found[name].append(line.strip())
    return found


def hooks() -> list[dict]:
    (repo,) = yaml.safe_load(text_of(".pre-commit-config.yaml"))["repos"]
    assert repo["repo"] == "local"  # nothing is downloaded
    return repo["hooks"]


def test_recipes_are_one_line_each_and_run_what_there_is():
    found = recipes(text_of("justfile"))
    assert set(found) == {"list", *RECIPES}
    assert {len(lines) for lines in found.values()} == {1}
    commands = [line for name, (line,) in found.items() if name != "list"]
    assert [lack for line in commands for lack in missing(line)] == []


def test_hooks_run_what_there_is():
    assert {hook["id"] for hook in hooks()} == {"ruff", "ruff-format", "mypy", "catalogue", "cli-reference"}
    assert [lack for hook in hooks() for lack in missing(hook["entry"])] == []
    patterns = [hook["files"] for hook in hooks() if "files" in hook]
    files = [path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "src").rglob("*.py")]
    for pattern in patterns:
        assert any(re.search(pattern, file) for file in files), pattern


@pytest.mark.parametrize(
    ("command", "lack"),
    [
        ("bash scripts/gone.sh", "scripts/gone.sh"),
        ("bash scripts/in_env.sh rufff check .", "rufff check ."),
        ("bash scripts/in_env.sh python scripts/gone.py --check", "scripts/gone.py"),
        ("bash scripts/in_env.sh python -m sphinx", "python -m sphinx"),
        ("make", "make"),
        ("bash", ""),
    ],
)
def test_what_is_missing_is_seen(command, lack):
    assert missing(command) == [lack]


def faults(form: dict) -> list[str]:
    """What GitHub would refuse in a form (docs.github.com, "Syntax for GitHub's form schema")."""
    found = [f"no {key}" for key in ("name", "description", "body") if not form.get(key)]
    body = form.get("body") or []
    ids = [part["id"] for part in body if "id" in part]
    found += [f"{name} twice" for name in set(ids) if ids.count(name) > 1]
    found += [f"id {name}" for name in ids if not re.fullmatch(r"[\w-]+", name, flags=re.A)]
    if all(part.get("type") == "markdown" for part in body):
        found.append("no field")
    for part in body:
        kind, attributes = part.get("type"), part.get("attributes", {})
        if kind not in ("markdown", "textarea", "input", "dropdown", "checkboxes"):
            found.append(f"type {kind}")
        if not attributes.get("value" if kind == "markdown" else "label"):
            found.append(f"{part.get('id', kind)} says nothing")
        if kind in ("dropdown", "checkboxes") and not attributes.get("options"):
            found.append(f"{part['id']} has no options")
    return found


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_forms_are_whole_and_in_both_languages(path):
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert faults(form) == []
    for text in (form["name"], form["description"], *(part["attributes"].get("value", "字") for part in form["body"])):
        assert re.search(r"[\u4e00-\u9fff]", text), text


def test_faults_of_forms_are_seen():
    field = {"type": "input", "id": "a", "attributes": {"label": "A"}}
    assert faults({"name": "n", "description": "d", "body": [field]}) == []
    assert faults({"name": "n", "body": [field, field]}) == ["no description", "a twice"]
    wrong = [
        {"type": "text", "id": "a b", "attributes": {}},
        {"type": "dropdown", "id": "c", "attributes": {"label": "C"}},
    ]
    found = faults({"name": "n", "description": "d", "body": wrong})
    assert found == ["id a b", "type text", "a b says nothing", "c has no options"]


def test_forms_ask_for_what_a_run_writes():
    assert {path.stem for path in FORMS} == {"bug", "training-result", "question"}
    result = yaml.safe_load((GITHUB / "ISSUE_TEMPLATE" / "training-result.yml").read_text(encoding="utf-8"))
    required = {part["attributes"]["label"] for part in result["body"] if part.get("validations", {}).get("required")}
    assert {"run.json", "proof.json", "yangtuo doctor --json"} <= required


def test_links_of_the_chooser_are_those_of_the_project():
    config = yaml.safe_load((GITHUB / "ISSUE_TEMPLATE" / "config.yml").read_text(encoding="utf-8"))
    urls = tomllib.loads(text_of("pyproject.toml"))["project"]["urls"].values()
    assert config["contact_links"]
    assert all(link["url"] in urls and link["name"] and link["about"] for link in config["contact_links"])


def test_the_workflow_runs_what_there_is_on_all_pythons_of_the_package():
    workflow = yaml.safe_load((GITHUB / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    jobs = workflow["jobs"]
    classifiers = tomllib.loads(text_of("pyproject.toml"))["project"]["classifiers"]
    versions = [version[1] for one in classifiers if (version := re.search(r"Python :: (3\.\d+)$", one))]
    assert jobs["fast"]["strategy"]["matrix"]["python"] == versions
    commands = {name: [step["run"] for step in job["steps"] if "run" in step] for name, job in jobs.items()}
    assert commands == {"fast": ["bash scripts/test.sh fast"], "whole": ["bash .ci/run"]}
    assert [lack for lines in commands.values() for line in lines for lack in missing(line)] == []
    (python,) = [
        step["with"]["python-version"] for step in jobs["whole"]["steps"] if "python-version" in step.get("with", {})
    ]
    assert python == versions[0]


def test_continuous_integration_runs_the_command_of_the_readme():
    assert text_of(".ci/run").splitlines()[-1] == "exec bash scripts/test.sh"


def test_named_files_of_the_security_page_exist():
    page = REPOSITORY / "SECURITY.md"
    named = [path for path in paths_of(page) if "/tests/" in str(path)]
    assert len(named) > 4
    assert [str(path) for path in named if not Path(path).exists()] == []


def test_both_languages_of_the_security_page_are_in_step():
    english, chinese = text_of("SECURITY.md").split("## 中文")
    assert spans_of(english) == spans_of(chinese)
    assert [line.count("|") for line in english.splitlines() if line.startswith("|")] == [
        line.count("|") for line in chinese.splitlines() if line.startswith("|")
    ]
