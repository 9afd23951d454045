"""The page in a real browser: charts, both languages, colours, a phone, no scripts, and no request but for itself.

Skipped where chromium and its driver are not installed (Debian: chromium, chromium-driver).
"""

import contextlib
import json
import shutil
import time

import pytest

from tests.run_folders import EVENT, evaluations, record, results, samples, steps, write_run
from yangtuo.report import page

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium and chromedriver are not installed")
EVIL = "</script><img src=x onerror=alert(1)><script>alert(2)</script>"


@contextlib.contextmanager
def opened(path, *, language="en-US", width=1200, scripts=True):
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed (extra dev)")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--lang={language}"):
        options.add_argument(word)
    preferences = {"intl.accept_languages": language}
    if not scripts:
        preferences["profile.managed_default_content_settings.javascript"] = 2
    options.add_experimental_option("prefs", preferences)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=DRIVER))
    try:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        driver.get(path.as_uri())
        yield driver
    finally:
        driver.quit()


def requests_of(driver):
    messages = (json.loads(entry["message"])["message"] for entry in driver.get_log("performance"))
    return [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]


def shown(driver, selector):
    """The visible texts of the elements; on a busy machine the browser may take a moment to lay them out."""
    end = time.monotonic() + 10
    while True:
        texts = [one.text for one in driver.find_elements("css selector", selector) if one.is_displayed()]
        if texts or time.monotonic() > end:
            return texts
        time.sleep(0.1)


def assert_quiet(driver, path):
    assert requests_of(driver) == [path.as_uri()]
    assert driver.get_log("browser") == []


@pytest.fixture(scope="module")
def one_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one") / "out"
    log = [samples(0, "The wall"), *steps(5000, spikes={2500}), EVENT, *evaluations(5000, 250), samples(5000, "长城。")]
    write_run(folder, evaluated=results(), log=log, run=record(notes=[EVIL]))
    page.write([folder], folder / "report.html")
    return folder / "report.html"


@pytest.fixture(scope="module")
def three_runs(tmp_path_factory):
    place = tmp_path_factory.mktemp("three")
    folders = [
        write_run(place / "a", log=[*steps(300), *evaluations(300)]),
        write_run(place / "b", log=[*steps(200, seed=1), *evaluations(200)], evaluated=results("no_difference")),
        write_run(place / "c", log=steps(50), proven=False, run=record(state="running")),
    ]
    page.write(folders, place / "report.html")
    return place / "report.html"


def chart_sizes(driver):
    return [
        (one.size["width"], one.size["height"])
        for one in driver.find_elements("css selector", "[data-drawn=true] .uplot canvas")
    ]


def test_the_charts_are_drawn_and_can_be_zoomed(one_run):
    with opened(one_run) as driver:
        sizes = chart_sizes(driver)
        assert len(sizes) == 6
        assert all(width > 400 and height > 150 for width, height in sizes)
        assert driver.find_elements("css selector", ".plot > svg") == []  # the drawings have made room
        coloured = driver.execute_script(
            "const c = document.querySelector('.uplot canvas');"
            "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
            "return d.filter((v, i) => i % 4 === 3 && v > 0).length"
        )
        assert coloured > 1000
        over = driver.find_element("css selector", ".uplot .u-over")
        from selenium.webdriver import ActionChains

        before = driver.execute_script("return document.querySelector('.uplot canvas').toDataURL()")
        driver.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", over)
        ActionChains(driver).move_to_element_with_offset(over, 20, 0).perform()
        hovered = driver.find_element("css selector", ".u-legend .u-series:nth-child(2) .u-value").text
        assert float(hovered) > 0
        ActionChains(driver).click_and_hold().move_by_offset(150, 0).release().perform()
        assert driver.execute_script("return document.querySelector('.uplot canvas').toDataURL()") != before
        assert_quiet(driver, one_run)


@pytest.mark.parametrize(
    ("language", "headline", "lang"),
    [
        ("zh-CN", "训练完成，通过校验，并且优于基座模型", "zh-CN"),
        ("en-US", "Finished, proven, and better than the base", "en"),
        ("de-DE", "Finished, proven, and better than the base", "en"),
    ],
)
def test_the_language_is_the_browsers_until_it_is_chosen(language, headline, lang, one_run):
    with opened(one_run, language=language) as driver:
        assert shown(driver, "#verdict h2") == [headline]
        assert driver.execute_script("return document.documentElement.lang") == lang
        other = "en" if lang == "zh-CN" else "zh"
        driver.find_element("css selector", f"label[for=language-{other}]").click()
        assert shown(driver, "#verdict h2") != [headline]
        assert driver.find_element("css selector", ".u-legend").text.startswith("步" if other == "zh" else "step")
        assert len(chart_sizes(driver)) == 6
        assert_quiet(driver, one_run)


def test_light_and_dark(one_run):
    def back(driver):
        return driver.execute_script("return getComputedStyle(document.querySelector('.page')).backgroundColor")

    with opened(one_run) as driver:
        light = back(driver)
        driver.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
        )
        dark = back(driver)
        assert dark != light
        driver.find_element("css selector", "label[for=theme-light]").click()
        assert back(driver) == light
        driver.find_element("css selector", "label[for=theme-dark]").click()
        assert back(driver) == dark
        assert_quiet(driver, one_run)


@pytest.mark.parametrize("name", ["one_run", "three_runs"])
def test_a_phone_scrolls_in_one_direction(name, request):
    path = request.getfixturevalue(name)
    with opened(path, width=375, language="zh-CN") as driver:
        wide, there = driver.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
        assert there == 375
        assert wide == 375
        assert all(200 < width <= 375 for width, _ in chart_sizes(driver))
        assert_quiet(driver, path)


def test_without_scripts_it_is_readable(one_run):
    with opened(one_run, language="zh-CN", scripts=False) as driver:
        drawings = driver.find_elements("css selector", ".plot > svg .line")
        assert len(drawings) == 7
        assert all(one.size["width"] > 300 for one in drawings)
        assert shown(driver, "#verdict h2") == ["Finished, proven, and better than the base"]
        driver.find_element("css selector", "label[for=language-zh]").click()
        assert shown(driver, "#verdict h2") == ["训练完成，通过校验，并且优于基座模型"]
        assert_quiet(driver, one_run)


def test_what_a_run_says_is_not_run(one_run):
    with opened(one_run) as driver:
        assert shown(driver, "#notes li") == [EVIL]
        assert driver.find_elements("css selector", "img") == []
        assert_quiet(driver, one_run)


def test_several_runs(three_runs):
    with opened(three_runs) as driver:
        assert len(chart_sizes(driver)) == 6
        assert shown(driver, "[data-verdict] b") == [
            "Finished, and the adapter is proven",
            "Finished and proven, but no better than the base",
            "Not finished: 50 of 60 steps",
        ]
        assert driver.find_element("css selector", ".u-legend").text.split("\n")[0].startswith("step")
        assert_quiet(driver, three_runs)
