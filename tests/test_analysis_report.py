"""The report in a real browser: it loads nothing, shows every figure, and can be used with a
keyboard, by a screen reader, on a phone and in the dark."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from analysis import whole
from sweeps import figure9, table10
from tests.analysis_store import FakeRequest, Outcome, make_store, requests_of
from tests.browser_packages import obstacle

UI = "http://127.0.0.1:5000"
CONTRAST = """
const canvas = Object.assign(document.createElement("canvas"), {width: 1, height: 1});
const pen = canvas.getContext("2d", {willReadFrequently: true});
const rgb = (colour) => {
  pen.clearRect(0, 0, 1, 1); pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1);
  return [...pen.getImageData(0, 0, 1, 1).data];
};
const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
  .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const behind = (node) => {
  for (let one = node; one; one = one.parentElement) {
    const colour = rgb(getComputedStyle(one).backgroundColor);
    if (colour[3] === 255) return colour;
  }
  return [255, 255, 255];
};
const ratio = (node) => {
  const [a, b] = [light(rgb(getComputedStyle(node).color)), light(behind(node))];
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
};
const wanted = "h1, h2, p, td, th, a, summary, code, .verdict, .button, .quiet";
return Math.min(...[...document.querySelectorAll(wanted)].map(ratio));
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """A page of a whole exhibit, one without runs and one with a gap; the folder of its runs."""
    folder = tmp_path_factory.mktemp("report")
    sweeps = {"table10": table10.sweep(), "figure9": figure9.sweep()}
    asked = {
        name: [
            request
            for request in requests_of(sweep)
            if name == "figure9" or request.labels["panel"] == "llama_60m"
        ]
        for name, sweep in sweeps.items()
    }

    def outcome(request: FakeRequest) -> Outcome | None:
        if request.labels["panel"] == "warmup_steps":
            return None
        worse = 0.4 if request.labels["value"] == "adam" else 0.0
        return Outcome(5 + worse + request.seed / 100 + int(request.cell_id[:4], 16) / 1e6)

    requests = [*asked["table10"], *asked["figure9"]]
    uri = make_store(
        tmp_path_factory.getbasetemp(), folder / "runs/mlflow.db", "table10", requests, outcome
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        patch.setattr("analysis.assembly.exhibits_of_sweeps", lambda: list(sweeps))
        patch.setattr("analysis.assembly.expand", lambda sweep, *_: asked[sweep.name])
        patch.setattr("analysis.assembly.configured_names", lambda: ["table6"])
        # The stand-in's runs serve one sweep only.
        patch.setattr("analysis.frames._search", _search_all)
        runs, reports = folder / "runs", folder / "reports"
        (path,) = whole.make("report", "nano", [], runs, reports, UI)
        again = whole.make("report", "nano", [], runs, folder / "again", UI)
        assert again[0].read_bytes() == path.read_bytes()
        yield path, runs


def _search_all(client: Any, experiment: str, sweep: str) -> Iterator[Any]:
    yield from client.search_runs([experiment], "tags.`spam_lab.kind` = 'run'", max_results=1000)


@pytest.fixture(scope="module")
def browser(made: tuple[Path, Path]) -> Iterator[webdriver.Chrome]:
    """Debian's Chromium with the page open, its requests and console on record."""
    if reason := obstacle():
        pytest.skip(reason)
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    try:
        driver.get(made[0].as_uri())
        yield driver
    finally:
        driver.quit()


def emulate(browser: webdriver.Chrome, width: int, scheme: str = "light") -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def test_the_page_says_what_is_there_and_what_is_missing(made: tuple[Path, Path]) -> None:
    page, runs = made
    text = page.read_text()
    assert len(text) < 10_000_000
    assert "2 of 3 exhibits are complete" in text
    assert "python launch.py sweep=figure9 scale=nano" in text
    assert "12 missing" in text
    assert f"{UI}/#/experiments/1/runs/" in text
    assert str(runs) not in text and "http://www" not in text.replace("http://www.w3.org", "")


def test_nothing_is_loaded_and_the_console_is_silent(browser: webdriver.Chrome) -> None:
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]
    assert asked, "the browser keeps a record of what it loads"
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert sum(url.startswith("file:") for url in asked) == 1
    assert browser.get_log("browser") == []


def test_every_figure_is_shown(browser: webdriver.Chrome) -> None:
    sizes = browser.execute_script(
        "return [...document.querySelectorAll('figure img')].map((image) => "
        "[image.complete, image.naturalWidth, image.getBoundingClientRect().width, image.alt])"
    )
    assert len(sizes) == 2
    for complete, natural, width, alternative in sizes:
        assert complete and natural > 0 and width > 200 and alternative
    assert "SPAM is better than Adam at every θ on LLaMA-60M: holds" in sizes[1][3]


def test_a_figure_is_enlarged_with_keys_alone(browser: webdriver.Chrome) -> None:
    emulate(browser, 1400)
    button = browser.find_element(By.CSS_SELECTOR, "button.zoom")
    browser.execute_script("arguments[0].focus()", button)
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    dialog = browser.find_element(By.ID, "zoom")
    assert dialog.get_attribute("open") is not None
    width = "return Math.round(document.querySelector('#zoom img').getBoundingClientRect().width)"
    fitting = wait_for_width(browser, width)
    browser.switch_to.active_element.send_keys("+")
    assert browser.execute_script(width) == pytest.approx(1.4 * fitting, abs=2)
    browser.switch_to.active_element.send_keys("-")
    browser.switch_to.active_element.send_keys("-")
    assert browser.execute_script(width) == pytest.approx(fitting / 1.4, abs=2)
    browser.switch_to.active_element.send_keys("0")
    assert browser.execute_script(width) == pytest.approx(fitting, abs=2)
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert dialog.get_attribute("open") is None
    assert browser.switch_to.active_element == button


def wait_for_width(browser: webdriver.Chrome, script: str) -> int:
    """The enlarged figure's width, once it is decoded."""
    from selenium.webdriver.support.ui import WebDriverWait

    found: int = WebDriverWait(browser, 60).until(
        lambda one: (
            one.execute_script("return document.querySelector('#zoom img').style.width !== ''")
            and one.execute_script(script)
        )
    )
    return found


def test_a_screen_reader_finds_its_way(browser: webdriver.Chrome) -> None:
    problems = browser.execute_script(
        """
        const all = (rule) => [...document.querySelectorAll(rule)];
        const ids = all("[id]").map((node) => node.id);
        return {
          lang: document.documentElement.lang,
          landmarks: ["header", "nav", "main", "footer"].map((name) => all(name).length),
          h1: all("h1").length,
          unnamed: all("section, dialog").filter(
            (node) => !document.getElementById(node.getAttribute("aria-labelledby"))).length,
          tables: all("table").length,
          bare: all("table").filter((table) => !table.caption?.textContent.trim()).length,
          headers: all("th").filter((cell) => !cell.scope).length,
          images: all("figure img").filter((image) => image.alt.length < 20).length,
          regions: all(".scroll").filter(
            (node) => node.tabIndex !== 0 || !node.getAttribute("aria-label")).length,
          twice: ids.filter((id, index) => ids.indexOf(id) !== index),
          lost: all("a[href^='#']").filter(
            (link) => !document.getElementById(link.hash.slice(1))).length,
        };
        """
    )
    assert problems.pop("tables") > 5
    assert problems == {
        "lang": "en",
        "landmarks": [1, 1, 1, 1],
        "h1": 1,
        "unnamed": 0,
        "bare": 0,
        "headers": 0,
        "images": 0,
        "regions": 0,
        "twice": [],
        "lost": 0,
    }


def test_the_first_key_leads_to_the_content(browser: webdriver.Chrome) -> None:
    browser.refresh()
    browser.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
    first = browser.switch_to.active_element
    assert first.get_attribute("class") == "skip"
    assert browser.execute_script("return getComputedStyle(arguments[0]).outlineStyle", first) != (
        "none"
    )
    first.send_keys(Keys.ENTER)
    assert browser.switch_to.active_element.get_attribute("id") == "main"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 820, 1400])
def test_it_fits_and_can_be_read(browser: webdriver.Chrome, width: int, scheme: str) -> None:
    """Nothing is wider than the window; all text has the contrast that WCAG AA asks for."""
    emulate(browser, width, scheme)
    browser.refresh()
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.execute_script(CONTRAST) >= 4.5
    ground = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") is (scheme == "light")


def test_numbers_can_be_copied_and_downloaded(
    browser: webdriver.Chrome, made: tuple[Path, Path]
) -> None:
    emulate(browser, 1400)
    browser.execute_script(
        "document.execCommand = () => { window.copied = document.activeElement.value; };"
        "navigator.clipboard.writeText = async () => { throw new Error('not allowed'); };"
    )
    browser.execute_script("document.querySelector('[data-copy=ledger-table]').click()")
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 60).until(
        lambda one: one.find_element(By.ID, "said").get_attribute("textContent")
    )
    copied = browser.execute_script("return window.copied").splitlines()
    assert copied[0].startswith("claim\tverdict\tover the ledger")
    link = browser.find_element(By.CSS_SELECTOR, "a[download='ledger.csv']")
    kind, _, content = str(link.get_attribute("href")).partition(",")
    assert kind == "data:text/csv;base64"
    lines = base64.b64decode(content).decode().splitlines()
    assert lines[0].startswith("scale,claim,text,source")
    assert len(lines) == len(copied) == 7


def test_paper_has_no_folds(browser: webdriver.Chrome) -> None:
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    count = "return document.querySelectorAll('main section > details:not([open])').length"
    assert browser.execute_script(count) == 0
    browser.execute_script("dispatchEvent(new Event('afterprint'))")
    assert browser.execute_script(count) > 0
    printed = browser.execute_cdp_cmd("Page.printToPDF", {})
    assert base64.b64decode(printed["data"]).startswith(b"%PDF")


def test_a_claim_takes_little_of_a_printed_page(browser: webdriver.Chrome) -> None:
    """Its columns are wide enough for words; its runs and raw numbers are left to the screen."""
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    size = {"width": 718, "height": 1000, "deviceScaleFactor": 1, "mobile": False}  # A4 at 96 dpi
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        rows = "[...document.querySelectorAll('#ledger-table tbody tr')]"
        assert max(browser.execute_script(f"return {rows}.map((row) => row.offsetHeight)")) < 300
        left = "[...document.querySelectorAll('.all, td details > :not(summary)')]"
        assert browser.execute_script(f"return {left}.some((one) => one.offsetHeight)") is False
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
