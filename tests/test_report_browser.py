"""Reports in a real browser: Debian's Chromium, driven by playwright; skipped where one of them is missing."""

import shutil
from contextlib import contextmanager

import pytest
from small_voc import css, picture_side, run_arguments

from css.report.pictures import SIDE

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: pip install -e '.[browser]'"
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")


@pytest.fixture(scope="module")
def report(data, tmp_path_factory):
    """report.html of a run of three tasks."""
    runs = tmp_path_factory.mktemp("runs")
    with picture_side(SIDE):
        outcome = css(*run_arguments(data, runs, "plop", "--train.epochs", "2"))
    assert outcome.code == 0, outcome.err
    return runs / "plop" / "report.html"


@pytest.fixture(scope="module")
def chromium():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def opened(browser, path, **options):
    """A page with what it asked for and complained of."""
    context = browser.new_context(**options)
    page, page_says = context.new_page(), []
    page.on("request", lambda request: page_says.append(request.url))
    page.on("console", lambda message: page_says.append(message.text))
    page.on("pageerror", lambda error: page_says.append(str(error)))
    page.goto(path.as_uri())
    yield page, [said for said in page_says if said != path.as_uri() and not said.startswith("data:")]
    context.close()


def test_it_needs_no_other_file_and_complains_of_nothing(chromium, report):
    with opened(chromium, report, offline=True) as (page, said):
        assert said == [] and "voc 1-1" in page.title()
        images = page.locator("img")
        assert images.count() >= 9 + 1, "three examples of three pictures, and the strip"
        for index in range(images.count()):
            image = images.nth(index)
            assert image.get_attribute("alt") and image.evaluate("e => e.complete && e.naturalWidth >= 224")
        assert page.locator("svg[role=img]").count() >= 4, "scores, and the losses of three tasks"
        assert page.get_by_role("heading", name="Forgetting, worst first").is_visible()
    assert report.stat().st_size < 3e6


def test_a_request_would_be_noticed(chromium, report, tmp_path):
    broken = tmp_path / "broken.html"
    broken.write_text(report.read_text().replace("</main>", '<img src="gone.png"></main>'))
    with opened(chromium, broken) as (_, said):
        assert any("gone.png" in line for line in said)


@pytest.mark.parametrize("width", [360, 1200])
def test_it_fits_the_width(chromium, report, width):
    """What is wider scrolls within itself."""
    with opened(chromium, report, viewport={"width": width, "height": 800}) as (page, _):
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        sizes = page.evaluate(
            "[...document.querySelectorAll('svg[role=img] text')]"
            ".map(t => t.ownerSVGElement.getBoundingClientRect().width / 360 * 12)"
        )
        assert min(sizes) > 9, "letters of charts can be read"


def test_dark_and_light(chromium, report):
    def brightness(scheme):
        with opened(chromium, report, color_scheme=scheme) as (page, _):
            paper, ink = page.evaluate("(s => [s.backgroundColor, s.color])(getComputedStyle(document.body))")
            return [sum(map(int, colour[4:-1].split(","))) for colour in (paper, ink)]

    (light_paper, light_ink), (dark_paper, dark_ink) = brightness("light"), brightness("dark")
    assert light_paper > 600 > 150 > light_ink and dark_paper < 150 < 600 < dark_ink


def test_it_can_be_printed(chromium, report):
    with opened(chromium, report, color_scheme="dark") as (page, _):
        assert page.pdf(format="A4").startswith(b"%PDF")
        page.emulate_media(media="print")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
