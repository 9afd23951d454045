"""The card as Markdown, from values."""

from dataclasses import replace

import pytest
import yaml

from yangtuo.model.model_card import (
    MARK,
    CardFacts,
    DataFile,
    Loading,
    Losses,
    code,
    is_ours,
    languages_of,
    markdown,
    put_verdict,
    with_verdict,
)

FACTS = CardFacts(
    name="base, tuned with LoRA",
    loading=Loading("path/to/base", "/path/to/base"),
    template="alpaca_zh",
    prompt="### Instruction:\n{instruction}\n\n### Response: ",
    prompt_section="## Prompt\n\nAs in training.\n",
    config={
        "r": 8,
        "lora_alpha": 16.0,
        "target_modules": ["v_proj", "q_proj"],
        "modules_to_save": None,
        "use_dora": True,
    },
    data=(DataFile("a.json", 1200, "0" * 64),),
    languages=("zh", "en"),
    num_steps=1500,
    losses=Losses(3.25, 1.5, 16),
    versions={"torch": "2.13.0", "peft": "0.21.2"},
    commands=("to ask it: yangtuo chat out/sft_lora_model",),
)


def test_the_values_are_in_their_places():
    card = markdown(FACTS)
    for part in (
        "# base, tuned with LoRA\n",
        "| rank | 8 |",
        "| alpha | 16.0 |",
        "| variant | use_dora |",
        "| target modules | `q_proj`, `v_proj` |",
        "| steps 步数 | 1,500 |",
        f"| `a.json` | 1,200 | `{'0' * 64}` |",
        "torch 2.13.0, peft 0.21.2",
        "3.2500 before the first step, 1.5000 of this adapter",
        "训练前 3.2500，训练后 1.5000",
        "```text\n### Instruction:\n{instruction}\n\n### Response: \n```",
        "It ends with a blank.",
        "```bash\nyangtuo chat out/sft_lora_model\n```",
        "## Prompt\n\nAs in training.",
    ):
        assert part in card, part
    assert "modules_to_save" not in card
    assert card.index(MARK) > card.index("\n---\n")  # the front matter has to come first


def test_the_front_matter_is_yaml_whatever_the_name():
    odd = replace(FACTS, loading=Loading('a: "b" #\\c 底座', "b"), languages=())
    values = yaml.safe_load(markdown(odd).split("---\n")[1])
    assert values == {
        "base_model": 'a: "b" #\\c 底座',
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["lora", "sft", "transformers", "yangtuo"],
    }


def test_what_is_not_known_is_left_out():
    card = markdown(replace(FACTS, losses=None, prompt=None, data=()))
    assert "nats" not in card
    assert "```text" not in card
    assert "More Information" not in card


def test_a_prompt_with_a_fence_stays_whole():
    card = markdown(replace(FACTS, prompt="```\n{instruction}\n```"))
    assert "````text\n```\n{instruction}\n```\n````" in card


def test_the_python_has_what_a_base_needs():
    plain = code(Loading("base", "/base"))
    compile(plain, "card", "exec")
    assert "from_pretrained('/base'," in plain
    assert "resize" not in plain
    assert "trust" not in plain
    text = code(Loading("base", "it's", ("one", "two"), 480, trust_remote_code=True))
    compile(text, "card", "exec")
    resized, first, second, last = (
        text.index(part)
        for part in (
            "resize_token_embeddings(480",
            "'one').merge_and_unload()",
            "'two').merge_and_unload()",
            "model, adapter)",
        )
    )
    assert resized < first < second < last
    assert 'from_pretrained("it\'s", dtype="auto", trust_remote_code=True)' in text


def test_a_verdict_takes_the_place_of_the_one_before():
    card = markdown(FACTS)
    told = with_verdict(with_verdict(card, "Worse."), "Better.")
    assert "Better." in told
    assert "Worse." not in told
    assert with_verdict(told, None) == card
    assert markdown(replace(FACTS, verdict="Better.")) == told
    assert with_verdict("# Mine\n", "Better.") == "# Mine\n"


@pytest.mark.parametrize("text", ["# Mine\n", "---\nlibrary_name: peft\n---\n# My adapter\n", ""])
def test_a_text_of_the_users_own_stays(tmp_path, text):
    (tmp_path / "README.md").write_text(text)
    assert not is_ours(text)
    assert not put_verdict(tmp_path, "Better.")
    assert (tmp_path / "README.md").read_text() == text
    assert not put_verdict(tmp_path / "absent", "Better.")


def test_a_verdict_is_put_into_a_card_of_ours(tmp_path):
    (tmp_path / "README.md").write_text(markdown(FACTS), encoding="utf-8")
    assert put_verdict(tmp_path, "更好。")
    assert "更好。" in (tmp_path / "README.md").read_text(encoding="utf-8")
    assert is_ours("---\nbase_model: x\n---\n# Model Card for Model ID\n")  # as PEFT writes it


@pytest.mark.parametrize(
    ("texts", "languages"),
    [
        (["长城是中国古代的军事防御工程。"], ("zh",)),
        (["The wall is in the north of China, and it is very old."], ("en",)),
        (["长城很长。", "The wall is long, and it is old."], ("zh", "en")),
        (["用 Python 写：import os"], ("zh",)),
        (["Die Mauer steht im Norden und wurde vor langer Zeit gebaut"], ()),
        (["万里の長城はとても長いです"], ()),
        ([], ()),
        (["123"], ()),
    ],
)
def test_languages_are_named_where_they_are_seen(texts, languages):
    assert languages_of(texts) == languages
