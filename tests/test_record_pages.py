"""The record in MLflow's own pages, in a real browser: a sweep is filtered, its runs have readable
names and a dataset, their losses are charted, two runs are compared by what differs, and the
exhibit is among the sweep's artifacts."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from matplotlib.figure import Figure
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from spam_lab.files import read_json, write_json
from spam_lab.record.exhibits import attach
from spam_lab.record.mlflow_store import open_store
from spam_lab.record.state import State
from spam_lab.record.store import SweepManifest
from spam_lab.record.tracking import sync
from tests.browser_packages import obstacle
from tests.conftest import ROOT
from tests.tracking_case import GrowingRun, local_uri

SECONDS = 60.0
"""To wait for what takes a second: the machine may be busy."""

FILTER = quote("tags.`spam_lab.sweep.figure9` = 'true'")
FLAT = f"orderByKey={quote('metrics.`validation/loss`', safe='')}&orderByAsc=true"
"""Sorted by a metric, trainings are not folded under their sweeps."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recorded sweep of three runs, one run beside it, and the sweep's exhibit."""
    if reason := obstacle():
        pytest.skip(reason)
    root = tmp_path_factory.mktemp("runs")
    for number, theta in enumerate((5000.0, 5000.0, 10.0, 77.0)):
        run = GrowingRun(root, number, theta=theta).start().train(40)
        path = run.directory.path / "config.json"
        content = read_json(path)
        content["config"]["data"] = {"name": "embedded", "source": "embedded"}
        write_json(path, content)
        run.checkpoint().end(State.DONE)
    ids = [f"{number:016x}" for number in range(3)]
    SweepManifest("figure9", "nano", ids, description="Which theta?").write(root)
    sync(root, local_uri(root))
    picture = root / "figure9.png"
    figure = Figure(figsize=(3, 2))
    figure.subplots().plot([1, 2, 3])
    figure.savefig(picture)
    assert attach(local_uri(root), "nano", "figure9", [picture])
    assert not attach(local_uri(root), "nano", "figure8", [picture])
    return root


@pytest.fixture(scope="module")
def address(runs: Path) -> Iterator[str]:
    """Where `spam-lab ui` serves the experiment's runs."""
    command = [sys.executable, "-m", "spam_lab.cli", "ui", "--runs", str(runs)]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    ui = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT)
    assert ui.stdout is not None
    try:
        lines = (line.strip() for line in ui.stdout)
        yield next(line for line in lines if line.startswith("spam_lab nano: ")).split(": ", 1)[1]
    finally:
        ui.send_signal(signal.SIGINT)
        ui.wait(60)


@pytest.fixture(scope="module")
def browser(address: str) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.add_argument("--window-size=1600,1000")
    driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


def wait_for_text(browser: webdriver.Chrome, *texts: str) -> str:
    """The page's text, once all of these are in it."""

    def found(driver: webdriver.Chrome) -> str:
        shown = str(driver.execute_script("return document.body.innerText"))
        return shown if all(text in shown for text in texts) else ""

    message = f"{texts} are not shown"
    return WebDriverWait(browser, SECONDS).until(found, message)


def test_a_sweep_is_found_by_its_tag_with_readable_names(
    browser: webdriver.Chrome, address: str
) -> None:
    browser.get(f"{address}?searchFilter={FILTER}&{FLAT}")
    names = ["spam llama_60m seed=0", "spam llama_60m seed=1", "spam llama_60m theta=10 seed=0"]
    shown = wait_for_text(browser, *names, "3 matching runs", "embedded (")
    assert "theta=77" not in shown, "it belongs to no sweep"


def test_the_losses_of_the_sweep_are_charted(browser: webdriver.Chrome, address: str) -> None:
    browser.get("about:blank")  # an address that differs behind the # alone loads no page
    browser.get(f"{address}?searchFilter={FILTER}&{FLAT}&compareRunsMode=CHART")
    box = (By.CSS_SELECTOR, "input[placeholder='Search metric charts']")
    WebDriverWait(browser, SECONDS).until(lambda driver: driver.find_elements(*box), "no charts")
    browser.find_element(*box).send_keys("train/loss")
    script = (
        "return [...document.querySelectorAll('.js-plotly-plot')].filter(plot => plot.data)"
        ".map(plot => plot.data.filter(one => one.y && one.y.length >= 40).map(one => one.name))"
    )

    def names(driver: webdriver.Chrome) -> set[str]:
        """The curves of the chart; each is drawn twice."""
        return next((set(found) for found in driver.execute_script(script) if found), set())

    found = WebDriverWait(browser, SECONDS).until(
        lambda driver: names(driver) if len(names(driver)) == 3 else None, "no three curves"
    )
    assert any("theta=10" in name for name in found), found


def test_two_runs_are_compared_by_what_differs(browser: webdriver.Chrome, address: str) -> None:
    browser.get("about:blank")
    browser.get(f"{address}?searchFilter={FILTER}&{FLAT}")
    compared = ["spam llama_60m seed=0", "spam llama_60m theta=10 seed=0"]
    wait_for_text(browser, *compared, "3 matching runs")
    for name in compared:
        row = f"//*[@role='row'][contains(., '{name}')]"
        press(browser, f"{row}//input[contains(@aria-label, 'row selection')]")
    press(browser, "//button[normalize-space()='Compare']")
    wait_for_text(browser, "Comparing 2 Runs", "Show diff only", "optimizer.theta")
    assert params_shown(browser) >= {"optimizer.name", "optimizer.lr", "optimizer.theta", "seed"}
    press(browser, "//*[text()='Show diff only']")
    WebDriverWait(browser, SECONDS).until(
        lambda driver: params_shown(driver) == {"optimizer.theta"}, "more than what differs is left"
    )
    assert {"10.0", "5000.0"} <= set(wait_for_text(browser, "optimizer.theta").split())


def press(browser: webdriver.Chrome, path: str) -> None:
    """Click the first element at an XPath, again where the page was being redrawn."""

    def pressed(driver: webdriver.Chrome) -> bool:
        driver.find_element(By.XPATH, path).click()
        return True

    WebDriverWait(browser, SECONDS, ignored_exceptions=[WebDriverException]).until(pressed, path)


def params_shown(browser: webdriver.Chrome) -> set[str]:
    """The parameters in the page of a comparison, between its two headings."""
    shown = wait_for_text(browser, "Run details", "Metrics").split("Run details")[1]
    lines = shown.split("Parameters", 1)[1].split("Metrics", 1)[0].splitlines()
    return {line.split()[0] for line in lines if line.strip() and line.strip() != "Show diff only"}


def test_the_exhibit_is_among_the_sweeps_artifacts(
    browser: webdriver.Chrome, address: str, runs: Path
) -> None:
    with open_store(local_uri(runs)) as client:
        (sweep,) = client.search_runs(["1"], "tags.`spam_lab.kind` = 'sweep'")
    browser.get("about:blank")
    browser.get(f"{address}/{sweep.info.run_id}/artifacts/exhibit/figure9.png")
    wait_for_text(browser, "figure9", "figure9.png", "Artifacts")

    def width(driver: webdriver.Chrome) -> int:
        images = driver.find_elements(By.CSS_SELECTOR, "img[src^='blob:']")
        return max((int(image.get_property("naturalWidth")) for image in images), default=0)

    assert WebDriverWait(browser, SECONDS).until(width, "no picture") == 300
