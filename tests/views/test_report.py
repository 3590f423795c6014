"""The report: one file, true numbers, and no string from data that does anything."""

import base64
import hashlib
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

import xdreg
from tests.helpers.pairs import never
from tests.helpers.viewers import HOSTILE
from xdreg.coordinates import grid_of
from xdreg.fields import accuracy as judging
from xdreg.fields.displacement import make_field
from xdreg.views import report as reporting
from xdreg.views import report_figures


class Page(HTMLParser):
    """Tags, their attributes, and the text of a page."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.text += " "

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(autouse=True, scope="module")
def coarse_figures():
    """Draw what is not looked at by eye in little time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report_figures, "DPI", 30)
        patch.setattr(reporting, "WORST", 2)
        yield


def test_no_string_from_data_becomes_markup(hostile_report):
    html = hostile_report.read_text("utf-8")
    page = Page(html)
    assert len(page.all("script")) == 1
    assert not any("onerror" in attrs for _, attrs in page.tags)
    # Wherever it stands: title, heading, inputs, options, landmarks, labels.
    assert page.text.count(HOSTILE) > 55
    policy = next(v["content"] for v in page.all("meta") if "http-equiv" in v)
    script = re.search(r"<script>(.*)</script>\s*</body>", html, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    sources = [v["src"] for v in page.all("img")]
    assert len(sources) > 8
    assert all(v.startswith("data:image/png;base64,") for v in sources)
    assert all(v["href"] == "data:," for v in page.all("link"))
    assert page.all("a") == []


def test_the_numbers_are_those_of_the_registration(registered, hostile_report):
    pair, _, field = registered
    text = " ".join(Page(hostile_report.read_text("utf-8")).text.split())
    errors = judging.landmark_errors(field, pair.fixed_points, pair.moving_points)
    for before, after in errors.table().values():
        assert f"{before:.3g} {after:.3g}" in text
    counts = xdreg.fields.provenance.last_deformable(field).statuses
    assert counts["success"] == 5
    for name, count in counts.items():
        assert f"{count} {name}" in text
    assert f"{counts['success']} of 6 blocks of the last stage succeeded" in text
    assert "1 of 6 blocks of the last stage contributes no update" in text
    seconds = field.block_seconds.values
    assert f"{seconds.sum():.1f} s in all blocks" in text
    assert "block_shape [32, 32]" in text


def test_a_field_that_says_nothing_of_itself_has_a_report(tmp_path):
    pair = xdreg.datasets.phantom_pair((20, 24, 28), amplitude=2.0, units=None)
    field = make_field(pair.displacement.values, grid_of(pair.fixed))
    path = xdreg.report(field, tmp_path / "qc.html", pair.fixed, pair.moving)
    page = Page(path.read_text("utf-8"))
    assert "has no provenance" in page.text
    assert "Nothing stands out" in page.text
    assert sum(v.get("type") == "range" for v in page.all("input")) == 3


def test_landmarks_are_drawn_along_the_axes_of_an_oblique_image():
    turn = ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0), (0.0, 1.0, 0.0))
    grid = xdreg.Grid(
        ("z", "y", "x"), (4, 5, 6), (1.0,) * 3, (0.0,) * 3, direction=turn
    )
    inside = np.array([[1.0, 2.0, 3.0]])
    world = inside @ np.array(turn).T
    np.testing.assert_allclose(report_figures.along_axes(world, grid), inside)


def test_a_file_that_exists_is_kept(registered, tmp_path):
    pair, moving, field = registered
    path = tmp_path / "qc.html"
    path.write_text("mine")
    with pytest.raises(xdreg.StoreError, match="exists"):
        field.dreg.report(path, pair.fixed, moving)
    with pytest.raises(xdreg.InputError, match="must be a pair"):
        field.dreg.report(path, pair.fixed, moving, labels=moving, overwrite=True)
    with pytest.raises(xdreg.InputError, match="a report is a local file"):
        field.dreg.report("s3://bucket/qc.html", pair.fixed, moving)
    assert path.read_text("utf-8") == "mine"
    assert [p.name for p in tmp_path.iterdir()] == ["qc.html"]


@pytest.mark.parametrize(
    "odd", [5, "x", object(), [], {}, np.zeros(3)], ids=lambda odd: type(odd).__name__
)
def test_odd_arguments_end_in_one_clear_error(odd, registered, tmp_path, monkeypatch):
    pair, moving, field = registered
    points = {"landmarks": (pair.fixed_points, pair.moving_points)}
    # Before anything is drawn.
    monkeypatch.setattr(reporting, "_context", never)
    for name in ("landmarks", "landmark_names", "labels"):
        with pytest.raises(xdreg.InputError):
            path = tmp_path / "qc.html"
            field.dreg.report(path, pair.fixed, moving, **points | {name: odd})
    with pytest.raises(xdreg.InputError, match="must map labels to names"):
        field.dreg.report(path, pair.fixed, moving, label_names=[1])


def picture_of(page, place):
    """Return a picture of a page as an array."""
    source = page.all("img")[place]["src"].partition(",")[2]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source))))


@pytest.mark.parametrize("units", ["millimeter", "micrometer"])
def test_three_planes_with_z_upwards_in_a_body(units, tmp_path, monkeypatch):
    for name in ("pair_figure", "field_figure"):
        monkeypatch.setattr(report_figures, name, lambda *_, **__: "data:,")
    values = np.zeros((20, 24, 28), np.float32)
    values[15:] = 1.0  # bright for large z
    image = xdreg.make_image(values, 1.0, units=units)
    field = make_field(np.zeros((3, 20, 24, 28), np.float32), grid_of(image))
    path = xdreg.report(field, tmp_path / "qc.html", image, image)
    page = Page(path.read_text("utf-8"))
    body = units == "millimeter"
    assert ("coronal, y = " in page.text) == ("z upwards" in page.text) == body
    wipes = [v for v in page.all("img") if v["alt"] == "fixed image"]
    assert len(wipes) == 3
    coronal = picture_of(page, page.all("img").index(wipes[1]))
    top, bottom = coronal[: len(coronal) // 5], coronal[-len(coronal) // 5 :]
    assert (top.mean() > 200) == (bottom.mean() < 50) == body


def test_it_leads_with_the_verdict_landmarks_and_labels(registered, tmp_path):
    pair, moving, field = registered
    wrong = pair.moving_points.copy()
    wrong[7] += 60.0
    labels = [(v > 20_000).astype("uint8") for v in (pair.fixed.compute(), moving)]
    path = field.dreg.report(
        tmp_path / "qc.html",
        pair.fixed.assign_attrs(name="round 1"),
        moving.assign_attrs(name="round 2"),
        landmarks=(pair.fixed_points, wrong),
        labels=labels,
        label_names={1: "nuclei"},
    )
    html = path.read_text("utf-8")
    text = " ".join(Page(html).text.split())
    assert text.count("round 2 registered to round 1") == 2
    order = ['class="verdict', 'id="landmarks"', 'id="labels"', 'id="pair"']
    order += ['id="field"', 'id="stages"']
    places = [html.index(part) for part in order]
    assert places == sorted(places)
    assert re.search(r"landmarks? (is|are) much farther off .*: 8 \(8\d", text)
    assert '<tr class="odd"><th scope="row">8</th>' in html
    assert "mean Dice of 1 label" in text
    assert "outlines of the labels on the fixed image" in html
    for wrong_number in (
        r"\b1 \w+s (are|have|of)\b",
        r"\b1 (landmarks|labels|blocks)\b",
    ):
        assert not re.search(wrong_number, text)
