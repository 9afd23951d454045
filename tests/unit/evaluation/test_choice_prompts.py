"""Prompts, character for character, and the letter in what a model answers."""

import pytest

from tests.unit.evaluation import choices
from yangtuo.evaluation.choice_files import ChoiceQuestion, read_choice_folder
from yangtuo.evaluation.choice_prompts import answer_letter, prompt
from yangtuo.evaluation.statistics import share

CITIES = ("北京", "上海", "广州", "深圳")


def question(benchmark, subject, answer="B", text="哪个城市有外滩？"):
    return ChoiceQuestion(benchmark, subject, "Other", 1, text, CITIES, answer)


def test_the_prompt_of_ceval():
    first = question("ceval", "law", "A", "首都是")
    assert prompt(question("ceval", "law"), [first]) == (
        "以下是中国关于法学考试的单项选择题，请选出其中的正确答案。\n\n"
        "首都是\nA. 北京\nB. 上海\nC. 广州\nD. 深圳\n答案：A\n\n"
        "哪个城市有外滩？\nA. 北京\nB. 上海\nC. 广州\nD. 深圳\n答案："
    )


def test_the_prompt_of_cmmlu():
    first = question("cmmlu", "genetics", "A", "首都是")
    assert prompt(question("cmmlu", "genetics"), [first]) == (
        "以下是关于遗传学的单项选择题，请直接给出正确答案的选项。\n\n"
        "题目：首都是\nA. 北京\nB. 上海\nC. 广州\nD. 深圳\n答案是：A\n\n"
        "题目：哪个城市有外滩？\nA. 北京\nB. 上海\nC. 广州\nD. 深圳\n答案是："
    )


def test_an_unknown_subject_is_called_by_its_name():
    assert prompt(question("cmmlu", "my_firm")).startswith("以下是关于my_firm的单项选择题")


def test_an_exemplar_has_an_answer():
    with pytest.raises(ValueError, match="exemplar"):
        prompt(question("ceval", "law"), [question("ceval", "law", None)])


FOUND = {
    "A": "A",
    " b。": "B",
    "Ｃ": "C",
    "(D)": "D",
    "B. 上海": "B",
    "C，因为A和D都错": "C",
    "答案是 A": "A",
    "答案是：C。": "C",
    "答案：D": "D",
    "正确答案为B": "B",
    "答案选C": "C",
    "答案应该是选项 D": "D",
    "我认为选A": "A",
    "故选：B。": "B",
    "选择答案C": "C",
    "B是正确的": "B",
    "选项D正确": "D",
    "正确的是A": "A",
    "正确的选项是 C": "C",
    "C符合题意": "C",
    "答案为上海，也就是B": "B",
    "A项不正确，B项正确": "B",
    "比较A和B之后，B 当选": "B",
    "答案不是A，而是C": "C",
    "先看A，再看B。所以答案是C。": "C",
    "A. 北京\nB. 上海\nC. 广州\nD. 深圳\n答案：B": "B",
    "应该是D吧": "D",
    "这道题我会，D": "D",
    "上海": "B",
    "上海。": "B",
    "外滩在上海市。": "B",
    "DNA的双螺旋……选 C": "C",
}
NOT_FOUND = (
    "",
    "不知道",
    "A和B",
    "A. 北京\nB. 上海\nC. 广州\nD. 深圳",
    "北京或者上海",
    "不选A",
    "A不正确",
    "Because of this",
    "DNA和ABC",
    "排除D",
    "E",
)


@pytest.mark.parametrize(("text", "letter"), FOUND.items())
def test_the_letter_of_an_answer(text, letter):
    assert answer_letter(text, CITIES) == letter


@pytest.mark.parametrize("text", NOT_FOUND)
def test_no_letter_is_guessed(text):
    assert answer_letter(text, CITIES) is None


def test_the_texts_of_the_options_are_looked_for_where_they_are_known():
    assert answer_letter("上海") is None
    assert answer_letter("维生素C", ("维生素A", "维生素C", "钙", "铁")) == "B"
    assert answer_letter("10", ("1", "10", "100", "0")) == "B"
    assert answer_letter("得10个", ("1", "10", "100", "0")) is None


def test_forty_items_scored_by_hand(tmp_path):
    """A model that always says C: 4 of 10 a subject, by the list in test_choice_files; one that says nothing, none."""
    items = read_choice_folder(choices.cmmlu_folder(tmp_path)).answered()
    said = [answer_letter("我选C。", one.options) == one.answer for one in items]
    found = share(said)
    assert (found.value, found.n) == (0.4, 40)
    # Wilson of 16 of 40: (0.4 + 0.04802 +- 1.96 sqrt(0.006 + 0.0006002)) / 1.09604.
    assert (found.low, found.high) == pytest.approx((0.2635, 0.5540), abs=1e-4)
    assert not any(answer_letter("不知道", one.options) == one.answer for one in items)
    by_text = [
        answer_letter(f"结果{one.options['ABCD'.index(one.answer)]}。", one.options) == one.answer for one in items
    ]
    assert sum(by_text) == 40
