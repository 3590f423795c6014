"""The report in a real browser: Chromium, without a window.

Skipped where there is no Chromium or no playwright to drive it.
"""

import itertools

import pytest

import xdreg
from tests.helpers.viewers import CHROMIUM, HOSTILE

playwright = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium here: apt-get install chromium"
)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"]
        )
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def opened(hostile_report, browser):
    """Open a hostile report on a laptop's screen; note errors and requests."""
    page = browser.new_page(viewport={"width": 1366, "height": 768})
    page.errors, page.requests = [], []
    page.on("console", lambda message: page.errors.append(message.text))
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("request", lambda request: page.requests.append(request.url))
    page.goto(hostile_report.as_uri())
    page.wait_for_load_state("load")
    return page


def test_it_opens_without_errors_and_fetches_nothing(opened):
    assert opened.errors == []
    assert [url for url in opened.requests if not url.startswith("data:")] == [
        opened.url
    ]
    shown = "Array.from(document.images, v => v.complete && v.naturalWidth > 0)"
    loaded = opened.evaluate(shown)
    assert loaded
    assert all(loaded)


def test_strings_from_data_are_only_text(opened):
    assert opened.evaluate("window.hacked") is None
    assert HOSTILE in opened.title()
    assert opened.locator("h1").inner_text().count(HOSTILE) == 2
    assert opened.locator("#landmarks details tbody th").first.inner_text() == HOSTILE
    assert opened.locator("script").count() == 1


def test_a_script_that_slips_in_does_not_run(opened):
    opened.evaluate(
        "() => { const s = document.createElement('div');"
        's.innerHTML = \'<img src="data:," onerror="window.hacked=2">\';'
        "document.body.append(s); }"
    )
    opened.wait_for_timeout(100)
    assert opened.evaluate("window.hacked") is None
    # The policy says so in the console.
    assert any("Content Security Policy" in text for text in opened.errors)
    opened.evaluate("document.body.lastElementChild.remove()")
    opened.errors.clear()


def clip(page, name):
    found = page.locator(f".wipe .layer.{name}").first
    return found.evaluate("v => getComputedStyle(v).clipPath")


def visible(page):
    return [
        name
        for name in ("fixed", "before", "after")
        if page.locator(f".wipe .layer.{name}").first.is_visible()
    ]


def test_the_line_follows_mouse_and_keys(opened):
    slider = opened.locator(".wipe input[type=range]").first
    assert clip(opened, "after") == "inset(0px 0px 0px 50%)"
    opened.locator(".wipe .stack").first.scroll_into_view_if_needed()
    box = opened.locator(".wipe .stack").first.bounding_box()
    opened.mouse.move(box["x"] + box["width"] / 2, box["y"] + 40)
    opened.mouse.down()
    opened.mouse.move(box["x"] + box["width"] / 5, box["y"] + 40, steps=4)
    opened.mouse.up()
    assert float(slider.input_value()) == pytest.approx(20, abs=0.6)
    share = float(clip(opened, "after").rstrip("%)").split()[-1])
    assert share == pytest.approx(20, abs=0.6)
    line = opened.locator(".wipe .line").first.bounding_box()
    assert line["x"] == pytest.approx(box["x"] + box["width"] * share / 100, abs=2)
    slider.focus()
    before = float(slider.input_value())
    opened.keyboard.press("ArrowRight")
    assert float(slider.input_value()) == before + 0.5


def test_what_lies_under_the_line_can_be_chosen(opened):
    for value, names in (
        ("before", ["fixed", "before"]),
        ("both", ["before", "after"]),
        ("after", ["fixed", "after"]),
    ):
        opened.locator(f".wipe input[value={value}]").first.check()
        assert visible(opened) == names


@pytest.mark.parametrize("width", [1366, 1024, 420])
def test_it_fits_the_screen(opened, width):
    opened.set_viewport_size({"width": width, "height": 768})
    root = "document.documentElement"
    wide = opened.evaluate(f"{root}.scrollWidth - {root}.clientWidth")
    opened.set_viewport_size({"width": 1366, "height": 768})
    assert wide <= 0


def test_printed_the_three_pictures_stand_side_by_side(opened):
    opened.emulate_media(media="print")
    assert visible(opened) == ["fixed", "before", "after"]
    boxes = [
        opened.locator(f".wipe .layer.{name}").first.bounding_box()
        for name in ("fixed", "before", "after")
    ]
    for one, other in itertools.pairwise(boxes):
        assert one["x"] + one["width"] <= other["x"] + 1
        assert one["y"] == pytest.approx(other["y"], abs=1)
    assert not opened.locator(".wipe input[type=range]").first.is_visible()
    assert opened.pdf(format="A4").startswith(b"%PDF")
    opened.emulate_media(media="screen")
    assert opened.errors == []


#: Words of which one part stands in one line and the rest in another.
BROKEN = """() => {
  const found = [], walker = document.createTreeWalker(document.body, 4);
  while (walker.nextNode()) {
    const node = walker.currentNode;
    for (const word of node.data.matchAll(/[\\p{L}\\p{N}]+/gu)) {
      const range = document.createRange();
      range.setStart(node, word.index);
      range.setEnd(node, word.index + word[0].length);
      const tops = [...range.getClientRects()].map((box) => Math.round(box.top));
      if (new Set(tops).size > 1) found.push(word[0]);
    }
  }
  return found;
}"""


def test_no_word_is_broken_at_any_width(browser, tmp_path):
    pair = xdreg.datasets.phantom_pair((48, 56), amplitude=2.0)
    options = {"metric": "lncc", "block_shape": 24, "progress": False}
    field = pair.fixed.dreg.register(pair.moving, **options)
    manifest = {"source": "/data/measured/histology_kidney/section.ome.zarr"}
    path = field.dreg.report(
        tmp_path / "qc.html",
        pair.fixed.assign_attrs(
            name="kidney section, stained with haematoxylin", **manifest
        ),
        pair.moving.assign_attrs(name="immunohistochemistry"),
        landmarks=(pair.fixed_points, pair.moving_points),
        landmark_names=[f"ureteropelvic junction {i}" for i in range(50)],
    )
    page = browser.new_page()
    page.goto(path.as_uri())
    root = "document.documentElement"
    for width in (1600, 1100, 800, 701, 600, 420, 320):
        page.set_viewport_size({"width": width, "height": 768})
        assert page.evaluate(BROKEN) == [], width
        assert page.evaluate(f"{root}.scrollWidth - {root}.clientWidth") <= 0
