"""The bundled set: what can be computed is computed again, and no item can be told by its form."""

import json
import re
import subprocess
import sys
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest

import yangtuo
from yangtuo.evaluation.probe_checks import REFUSALS_EN, REFUSALS_ZH, RULES, han_share, passes
from yangtuo.evaluation.probe_items import PROBE_SET, CheckedItem, ChoiceItem, Passage, bundled_items

ITEMS = bundled_items()
ASKED = [item for item in ITEMS if not isinstance(item, Passage)]
CHOICES = [item for item in ITEMS if isinstance(item, ChoiceItem)]
CHECKED = {item.id: item for item in ITEMS if isinstance(item, CheckedItem)}
PASSAGES = [item for item in ITEMS if isinstance(item, Passage)]
README = (PROBE_SET / "README.md").read_text(encoding="utf-8")
DEMO = [
    row["instruction"] + row["input"]
    for path in (Path(yangtuo.__file__).parent / "demo_data").rglob("*.json")
    for row in json.loads(path.read_text(encoding="utf-8"))
]
# Read off the prompts by a person.
SUMS = {
    "arithmetic-zh-01": "17 + 26",
    "arithmetic-zh-02": "53 - 18",
    "arithmetic-zh-03": "7 * 8",
    "arithmetic-zh-04": "72 / 9",
    "arithmetic-zh-05": "9 + 15",
    "arithmetic-zh-06": "100 - 37",
    "arithmetic-zh-07": "3 * 12",
    "arithmetic-zh-08": "24 / 6",
    "arithmetic-zh-09": "45 - 17",
    "arithmetic-zh-10": "25 * 4",
    "arithmetic-zh-11": "9 * 6",
    "arithmetic-zh-12": "2 ** 5",
    "arithmetic-en-01": "16 + 28",
    "arithmetic-en-02": "81 - 36",
    "arithmetic-en-03": "6 * 13",
    "arithmetic-en-04": "63 / 7",
    "arithmetic-en-05": "90 - 52",
    "arithmetic-en-06": "8 * 11",
    "arithmetic-en-07": "27 + 35",
    "arithmetic-en-08": "56 / 8",
    "arithmetic-en-09": "13 ** 2",
    "arithmetic-en-10": "3 * 4 + 5",
    "arithmetic-en-11": "29 % 6",
    "arithmetic-en-12": "305 - 98",
}
# An answer that a good model may give, and one that is wrong; the rules of the other kinds are in every file alike.
ANSWERS = {
    "code-zh-09": ("```python\ndef add(a, b):\n    return a + b\n```", "def add(a, b):\n    return a - b"),
    "code-zh-10": ("def count(items):\n    return len(items)", "return count(items)"),
    "code-zh-11": ('print("你好")', "print(你好)"),
    "code-en-09": ("def larger(a, b):\n    if a > b:\n        return a\n    return b", "if a > b:\n    return b"),
    "code-en-10": ("def is_even(n):\n    return n % 2 == 0", "return n % 2"),
    "code-en-11": ("numbers = [1, 2, 3]", "list = [1, 2]"),
    "instruction-zh-01": ("是。", "是的，鸟有翅膀。"),
    "instruction-zh-02": ("春天来了，燕子飞回来了。", "好的：春天来了，燕子飞回来了。"),
    "instruction-zh-03": ("火车\n飞机\n轮船", "火车"),
    "instruction-zh-04": ("冬天很冷，常常下雪。", "冬天很冷。常常下雪。"),
    "instruction-zh-05": ("雨落在屋顶上。街上都是伞。", "雨落在屋顶上。"),
    "instruction-zh-06": ("好的，每天打扫。", "每天打扫。"),
    "instruction-zh-07": ("朋友，祝你一路平安！", "一路平安，朋友！"),
    "instruction-zh-08": ("月亮照着小船。", "月亮照着海。"),
    "instruction-zh-09": ('{"颜色": "绿色"}', "绿色"),
    "instruction-zh-10": ('{"title": "河", "year": 1999}', '{"title": "河"}'),
    "instruction-zh-11": ("4", "四"),
    "instruction-zh-12": ("BANANA", "Banana"),
    "instruction-zh-13": ("大象", "猫"),
    "instruction-zh-14": ("红、黄、蓝、绿", "红、黄、蓝"),
    "instruction-en-01": ("Yes.", "Yes, it is cold."),
    "instruction-en-02": ("The blue kite flies high.", "The blue kite flies."),
    "instruction-en-03": ("cat\ndog\nhorse", "cat\ndog"),
    "instruction-en-04": ("RED", "Red"),
    "instruction-en-05": ("in winter the lake freezes.", "In winter the lake freezes."),
    "instruction-en-06": ('{"city": "Madrid"}', "Madrid"),
    "instruction-en-07": ('{"name": "Ana", "age": 30}', '{"name": "Ana"}'),
    "instruction-en-08": ("Certainly! A library lends books.", "A library lends books."),
    "instruction-en-09": ("We walked to the river.", "The river is wide."),
    "instruction-en-10": ("The sea is wide. It is never still.", "The sea is wide."),
    "instruction-en-11": ("30", "thirty"),
    "instruction-en-12": ("Horse.", "An ant."),
    "instruction-en-13": ("I ate an apple on the train.", "I ate an apple."),
    "instruction-en-14": ("red, green, blue, white", "red, green"),
}


def only_text(text):
    return re.sub(r"\W", "", text).casefold()


def likeness(one, other):
    """Jaccard index of the pairs of characters."""
    first, second = ({text[i : i + 2] for i in range(len(text) - 1)} for text in (only_text(one), only_text(other)))
    return len(first & second) / len(first | second) if first | second else 1.0


def test_counts_are_those_of_the_readme():
    counts = Counter((item.kind, item.language) for item in ASKED)
    counts.update(("passages", item.language) for item in PASSAGES)
    told = re.findall(r"^\| `(\w+)\.jsonl` \| (\d+) \| (\d+) \|", README, flags=re.M)
    assert {
        (kind, language): int(n) for kind, *both in told for language, n in zip(("zh", "en"), both, strict=True)
    } == (counts)
    languages = Counter(item.language for item in ASKED)
    assert f"{len(ASKED)} items and {len(PASSAGES)} passages" in README
    assert len(ASKED) >= 150
    assert abs(languages["zh"] - languages["en"]) <= 10
    assert 12 <= len(PASSAGES) <= 20


def test_an_items_id_tells_its_kind_and_language_and_lies_in_its_file():
    assert len({item.id for item in ITEMS}) == len(ITEMS)
    for path in PROBE_SET.glob("*.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            assert re.fullmatch(rf"{row['kind']}-{row['language']}-\d\d", row["id"])
            assert path.stem == {"passage": "passages"}.get(row["kind"], row["kind"])


def test_sums_are_right():
    sums = {item.id: item for item in CHOICES if item.kind == "arithmetic"}
    assert sums.keys() == SUMS.keys()
    for name, item in sums.items():
        assert set(re.findall(r"\d+", item.prompt)) <= set(re.findall(r"\d+", SUMS[name])), name
        result = eval(SUMS[name])
        assert item.options[item.answer] == str(int(result)), name
        assert result == int(result), name
        assert sum(option == str(int(result)) for option in item.options) == 1


def test_programs_print_what_is_said():
    programs = [
        (item, re.search(r"```python\n(.*)\n```", item.prompt, re.S)) for item in CHOICES if item.kind == "code"
    ]
    assert len(programs) == 16
    parts = [f"print('<{item.id}>')\n{found[1]}\n" for item, found in programs]
    done = subprocess.run([sys.executable, "-c", "".join(parts)], capture_output=True, text=True, check=True)
    printed = dict(re.findall(r"<(\S+)>\n(.*)\n", done.stdout))
    assert printed == {item.id: item.options[item.answer] for item, _ in programs}


@pytest.mark.parametrize("name", [name for name in CHECKED if name.split("-")[0] in ("code", "instruction")])
def test_a_good_answer_passes_and_a_wrong_one_fails(name):
    right, wrong = ANSWERS[name]
    assert passes(CHECKED[name].check, right)
    assert not passes(CHECKED[name].check, wrong)


def test_no_rule_passes_an_empty_answer_or_the_repeated_prompt():
    repeated = [name for name, item in CHECKED.items() if passes(item.check, item.prompt)]
    assert not [name for name, item in CHECKED.items() if passes(item.check, "")]
    # Whoever repeats a question writes in its language and does not refuse, and the words asked for are in it.
    allowed = re.compile(r"language-|safety-\w\w-(0[7-9]|1\d)|instruction-(zh-08|en-13)")
    assert not [name for name in repeated if not allowed.match(name)]


def test_half_of_the_language_items_ask_for_the_other_language():
    items = [item for item in CHECKED.values() if item.kind == "language"]
    assert Counter((item.language, item.check.value) for item in items) == {
        ("zh", "zh"): 3,
        ("zh", "en"): 3,
        ("en", "en"): 3,
        ("en", "zh"): 3,
    }


def test_as_many_requests_are_harmless_as_are_to_be_refused():
    items = [item for item in CHECKED.values() if item.kind == "safety"]
    assert set(Counter((item.language, item.check.rule) for item in items).values()) == {6}


def test_each_text_is_in_its_language():
    for item in ITEMS:
        text = item.text if isinstance(item, Passage) else item.prompt.split("```")[0]
        if item.language == "zh":
            assert han_share(text) > 0.5, item.id
        else:
            assert han_share(text) == 0, item.id


def test_answers_are_balanced():
    for language in ("zh", "en"):
        for kind in ("facts", "arithmetic", "code"):
            chosen = [item for item in CHOICES if (item.kind, item.language) == (kind, language)]
            places = Counter(item.answer for item in chosen)
            assert set(places.values()) == {len(chosen) // 4}, (kind, language)


def test_no_option_is_told_by_its_length_or_form():
    extremes = Counter()
    for item in CHOICES:
        lengths = [len(option) for option in item.options]
        right = lengths[item.answer]
        assert max(lengths) <= 2 * min(lengths), item.id
        for name, end in (("longest", max), ("shortest", min)):
            extremes[name] += right == end(lengths) and lengths.count(right) == 1
        for form in (str.isdigit, str.isascii, str.isupper, lambda text: text.startswith("The ")):
            having = [form(option) for option in item.options]
            assert having.count(having[item.answer]) > 1 or item.kind == "code", item.id
    for count in extremes.values():
        assert count <= len(CHOICES) / 10


def test_the_right_sum_has_every_rank_among_its_options():
    sums = [item for item in CHOICES if item.kind == "arithmetic"]
    ranks = Counter(sorted(map(int, item.options)).index(int(item.options[item.answer])) for item in sums)
    assert min(ranks[rank] for rank in range(4)) >= 3
    assert all(len({len(option) for option in item.options}) == 1 for item in sums)


def test_no_two_prompts_are_alike_and_none_is_in_the_demo():
    code = [item for item in ASKED if "```" in item.prompt]
    assert len({item.prompt for item in code}) == len(code)
    prompts = [item.prompt for item in ASKED if item not in code]
    for one, other in [*combinations(prompts, 2), *((one, other) for one in prompts for other in DEMO)]:
        assert likeness(one, other) < 0.5, (one, other)
    for one, other in combinations([passage.text for passage in PASSAGES], 2):
        assert likeness(one, other) < 0.6  # English has few pairs of letters


def test_what_is_alike_would_be_found():
    assert likeness("法国的首都是哪里？", "日本的首都是哪里？") >= 0.5
    assert likeness("What is 16 plus 28?", "What is 16 plus 29") >= 0.5


def test_passages_are_of_the_length_that_is_said():
    for passage in PASSAGES:
        length = len(passage.text) if passage.language == "zh" else len(passage.text.split())
        assert 80 <= length <= 200, passage.id


def test_the_readme_names_every_rule_and_every_phrase():
    assert all(f'"{rule}"' in README or f"`{rule}`" in README for rule in RULES)
    told = README[README.index("Phrases of a refusal") : README.index("## How")]
    assert [*re.findall(r"`([^`]+)`", told.split("\n\n", 1)[1])] == [*REFUSALS_ZH, *REFUSALS_EN]
