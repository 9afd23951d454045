"""What is asked: questions with four options in C-Eval's files, dialogues with a system prompt. All made up."""

import csv
import random
from pathlib import Path

SUBJECTS = ("high_school_physics", "law", "accountant", "high_school_history")
SHOTS = 5
_NAMES = ("王芳", "李强", "赵敏", "陈建国", "刘洋", "周晓梅", "吴磊", "郑海燕", "孙志远", "何静")
_CITIES = ("杭州", "成都", "西安", "沈阳", "长沙", "昆明", "青岛", "兰州", "合肥", "福州")
_GOODS = ("茶叶", "钢材", "纸张", "水泥", "棉布", "玻璃", "陶瓷", "木材")
_WORKS = ("修水渠", "编地方志", "开办学堂", "铸造铜钱", "疏浚运河", "重修城墙", "设立粮仓")
SYSTEM = (
    "你是一家图书馆的咨询员，名叫小羊。你只用简体中文回答，语气礼貌，先给结论，再用一两句话说明理由；遇到不知道的事情就直接说不"
    "知道，不要编造书名、作者或年份。读者的姓名、电话和借阅记录不得透露给别人。图书馆周一闭馆，周二至周日九点到二十一点开放，"
    "每人最多借十本书，借期三十天，可以续借一次，逾期每天每本收费一角。"
)
_ASKED = (
    "我上周借了{n}本书，其中一本关于{good}的还没看完，可以再借多久？",
    "请推荐适合{n}岁孩子读的关于{city}的书。",
    "{city}的图书馆和你们可以通借吗？我有{n}本书要还。",
    "逾期{n}天，要交多少钱？",
    "我叫{name}，想知道我的朋友借了什么书，可以告诉我吗？",
    "星期一上午{n}点可以来还书吗？",
    "有没有讲{good}怎样制作的书，最好有图片？",
    "请用一句话介绍图书馆的借书规定，我要转告{name}。",
)


def write_folder(folder: Path, num_questions: int, seed: int = 0) -> Path:
    """A folder with `val/` (so many questions a subject) and `dev/` (5 exemplars a subject); returns it."""
    draws = random.Random(seed)
    for subject in SUBJECTS:
        for split, number in (("dev", SHOTS), ("val", num_questions)):
            path = folder / split / f"{subject}_{split}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("w", encoding="utf-8", newline="") as file:
                rows = csv.writer(file)
                rows.writerow(["id", "question", *"ABCD", "answer", *(["explanation"] if split == "dev" else [])])
                for i in range(number):
                    rows.writerow([i, *_question(subject, draws), *(["见题干。"] if split == "dev" else [])])
    return folder


def dialogues(number: int, seed: int = 0) -> list[str]:
    """So many questions of readers, all different, to be asked behind `SYSTEM`."""
    draws = random.Random(seed)
    texts: dict[str, None] = {}
    while len(texts) < number:
        text = _ASKED[len(texts) % len(_ASKED)]
        values = {"n": draws.randint(2, 60), "name": draws.choice(_NAMES)}
        texts[text.format(**values, city=draws.choice(_CITIES), good=draws.choice(_GOODS))] = None
        if len(texts) == number or len(texts) > 40 * len(_ASKED):
            break
    return list(texts)


def _question(subject: str, draws: random.Random) -> list[str]:
    """Text, four options and the right letter."""
    text, right, unit = _TEXTS[subject](draws)
    values = {right}
    while len(values) < len("ABCD"):
        values.add(max(1, right + draws.choice((-1, 1)) * draws.randint(1, max(4, right // 3))))
    options = draws.sample(sorted(values), len(values))
    return [text, *(f"{value}{unit}" for value in options), "ABCD"[options.index(right)]]


def _physics(draws: random.Random) -> tuple[str, int, str]:
    mass, speed, seconds, name = draws.randint(2, 90), draws.randint(3, 40), draws.randint(2, 12), draws.choice(_NAMES)
    return (
        f"{name}在水平地面上用恒力推一个质量为{mass}千克的木箱，木箱由静止开始做匀加速直线运动，经过{seconds}秒速度达到"
        f"每秒{speed * seconds}米，若不计木箱与地面之间的摩擦以及空气阻力，则木箱所受的推力大小是____。",
        mass * speed,
        "牛顿",
    )


def _law(draws: random.Random) -> tuple[str, int, str]:
    (a, b), city = draws.sample(_NAMES, 2), draws.choice(_CITIES)
    price, share, good = draws.randint(20, 400), draws.randint(5, 20), draws.choice(_GOODS)
    return (
        f"{city}的{a}与{b}签订{good}买卖合同，约定总价{price}万元，并约定违约方应当按照总价的百分之{share}支付违约金。合同"
        f"生效之后，{b}拒绝交货，也没有任何免责事由，{a}未能证明有更大的损失，则{b}应当支付的违约金约为____。",
        max(1, price * share // 100),
        "万元",
    )


def _accounting(draws: random.Random) -> tuple[str, int, str]:
    good, city, price = draws.choice(_GOODS), draws.choice(_CITIES), draws.randint(12, 90)
    first, bought, left = draws.randint(20, 90), draws.randint(100, 400), draws.randint(10, 60)
    return (
        f"{city}某{good}公司为一般纳税人，采用实地盘存制核算存货。本月月初结存{good}{first}吨，本月购入{bought}吨，单位成"
        f"本均为每吨{price}百元，月末实地盘点结存{left}吨，未发现毁损，则本月发出存货的成本为____。",
        (first + bought - left) * price,
        "百元",
    )


def _history(draws: random.Random) -> tuple[str, int, str]:
    city, work, year, years = draws.choice(_CITIES), draws.choice(_WORKS), draws.randint(960, 1700), draws.randint(3, 60)
    return (
        f"据{city}出土的一块石碑记载，当地官府于公元{year}年召集民夫{work}，历时{years}年方才完成，其间两度因水患停工，碑"
        f"文由一位致仕的官员撰写，并列出了捐资者的姓名。根据这段材料，该工程完工的时间应为公元____。",
        year + years,
        "年",
    )


_TEXTS = {
    "high_school_physics": _physics,
    "law": _law,
    "accountant": _accounting,
    "high_school_history": _history,
}
