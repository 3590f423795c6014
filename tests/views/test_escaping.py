"""Text of a saved field and of its images is shown, and does nothing.

The strings are taken from what a real run saves, so that a new one is tested, too.
"""

import json
import sys

import pytest

import xdreg
from tests.helpers.viewers import VIEWER, state_of
from xdreg.coordinates import coordinates
from xdreg.errors import printable
from xdreg.fields.field import field_grid
from xdreg.views import report as reporting
from xdreg.views import report_figures
from xdreg.views.napari_fields import field_layers
from xdreg.views.napari_images import image_layers
from xdreg.views.neuroglancer import serve
from xdreg.views.scene import make_scene

HOSTILE = (
    "</script></title></style>'\"><script>window.hacked = 1</script>"
    '<img src=x onerror="window.hacked=1">{{ 7*7 }}$\\frac{1}$'
    "\x1b]0;owned\x07\x1b[31m\x9b2J\r\u202e\u2066\ud800"
)
#: What must keep its form for the rest to be shown.
STRUCTURE = {"dims", "grid", "fixed_grid", "moving_grid"}


@pytest.fixture(scope="module")
def attributes(registered, tmp_path_factory):
    """Return the attributes of a field as it is saved, JSON as values."""
    path = tmp_path_factory.mktemp("saved") / "field.ome.zarr"
    xdreg.save(registered[2], path)
    stored = xdreg.open_field(path).attrs
    found = {}
    for name, text in stored.items():
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    return found


def leaves(value, path=()):
    """Yield the paths of all strings and numbers, and of all keys."""
    if isinstance(value, dict):
        for key, child in value.items():
            yield from leaves(child, (*path, key))
            yield (*path, key), True
    elif isinstance(value, list):
        for number, child in enumerate(value):
            yield from leaves(child, (*path, number))
    else:
        yield path, False


def replaced(value, path, is_key):
    """Return a copy of a value with hostile text at a path."""
    value = json.loads(json.dumps(value))
    owner = value
    for step in path[:-1]:
        owner = owner[step]
    if is_key:
        owner[HOSTILE] = owner.pop(path[-1])
    else:
        owner[path[-1]] = HOSTILE
    return value


def as_text(attributes):
    """Return attributes as a field holds them."""
    return {
        str(name): value if isinstance(value, str) else json.dumps(value)
        for name, value in attributes.items()
    }


def everywhere(value):
    """Return a value with all of its strings hostile, without its structure."""
    if isinstance(value, dict):
        return {k: v if k in STRUCTURE else everywhere(v) for k, v in value.items()} | {
            HOSTILE: HOSTILE
        }
    if isinstance(value, list):
        return [everywhere(v) for v in value]
    return HOSTILE if isinstance(value, str | None) else value


def check_page(html):
    """Raise if hostile text is markup in a page, or invisible."""
    for part in ("<script>window", "</script></title>", "<img src=x", "'\"><"):
        assert part not in html
    assert printable(html) == html
    assert "49$" not in html


@pytest.fixture
def stored(registered, attributes, tmp_path):
    """Return the paths of a field and of a pair, all of whose strings are hostile."""
    pair, moving, field = registered
    paths = [tmp_path / f"{name}.ome.zarr" for name in ("field", "fixed", "moving")]
    xdreg.save(field, paths[0])
    for image, path in zip((pair.fixed, moving), paths[1:], strict=True):
        image = image.expand_dims(c=["a", "b"])
        xdreg.save(image.compute(), path, name="image")
        document = json.loads((path / "zarr.json").read_text("utf-8"))
        ome = document["attributes"]["ome"]
        ome["multiscales"][0]["name"] = HOSTILE
        for channel in ome["omero"]["channels"]:
            channel["label"] = HOSTILE + channel["label"]
        (path / "zarr.json").write_text(json.dumps(document))
    extra = paths[0] / "xdreg" / "zarr.json"
    document = json.loads(extra.read_text("utf-8"))
    known = set(document["attributes"])
    document["attributes"] |= as_text(everywhere(attributes)) | {HOSTILE: HOSTILE}
    assert known <= set(document["attributes"])
    extra.write_text(json.dumps(document))
    return paths


def test_every_string_of_a_saved_field_is_text(registered, attributes):
    field, places = registered[2], list(leaves(attributes))
    assert len(places) > 100
    for place in places:
        changed = field.assign_attrs(as_text(replaced(attributes, *place)))
        try:
            check_page(changed.dreg._repr_html_())
            text = repr(changed.dreg)
            assert printable(text) == text
        except xdreg.XdregError as error:
            assert printable(str(error)) == str(error)


def test_a_report_of_hostile_files_is_a_page_of_text(stored, xdreg_command, tmp_path):
    path = tmp_path / "qc.html"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report_figures, "DPI", 30)
        patch.setattr(reporting, "WORST", 1)
        options = ["--channel", "0", "--moving-channel", "1", "-o", path]
        code, _, errors = xdreg_command("report", *stored, *options)
    assert code == 0, errors
    assert printable(errors) == errors
    html = path.read_text(encoding="utf-8")
    check_page(html)
    assert html.count("&lt;script&gt;window.hacked") > 20


def test_a_terminal_gets_text(stored, xdreg_command):
    for arguments in (("info", stored[0]), ("info", stored[1])):
        code, output, errors = xdreg_command(*arguments)
        assert code == 0, errors
        assert printable(output + errors) == output + errors
        code, output, errors = xdreg_command(*arguments, "--json")
        assert code == 0, errors
        assert printable(output) == output
        assert json.loads(output)
    # A channel that is missing is named, with those that are there.
    code, output, errors = xdreg_command("report", *stored, "--channel", HOSTILE)
    assert code == 1
    assert printable(errors) == errors


def test_viewers_get_text(stored):
    field = xdreg.open_field(stored[0])
    images = [xdreg.open_ome_zarr(path) for path in stored[1:]]
    scene = make_scene(field, *images, channel=0)
    server, link = serve(scene, VIEWER)
    server.server_close()
    assert HOSTILE not in json.dumps(state_of(link), ensure_ascii=False)
    assert set(link) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                            "0123456789-._~:/#!%")  # fmt: skip
    layers = [*image_layers(images[0], HOSTILE), *field_layers(field)]
    names = [options["name"] for _, options, _ in layers]
    assert len(names) > 4
    for name in names:
        assert printable(name) == name
        assert "<" not in name


def test_units_of_a_file_are_text(registered):
    pair, moving, field = registered
    grid = field_grid(field)
    odd = coordinates(grid.__class__(
        grid.dims, grid.shape, grid.spacing, grid.origin, HOSTILE
    ))  # fmt: skip
    changed = field.assign_coords(odd)
    changed.displacement.attrs["units"] = HOSTILE
    check_page(changed.dreg._repr_html_())
    assert printable(repr(changed.dreg)) == repr(changed.dreg)
    with pytest.raises(xdreg.InputError) as caught:
        make_scene(changed, pair.fixed, moving)
    assert printable(str(caught.value)) == str(caught.value)


def test_what_a_field_records_of_its_run_is_not_run(
    registered, attributes, xdreg_command, tmp_path, monkeypatch
):
    (tmp_path / "imported_by_a_field.py").write_text("def method(*_, **__): pass")
    monkeypatch.syspath_prepend(tmp_path)
    changed = json.loads(json.dumps(attributes))
    name = "imported_by_a_field:method"
    for stage in changed["xdreg"]["stages"]:
        stage |= {"kind": "Custom", "method": name, "reduction": name}
        stage["options"] = {"method": name, "!!python/name": name}
    changed |= {"method": name, "__import__": name}
    field = registered[2].assign_attrs(as_text(changed))
    path = tmp_path / "field.ome.zarr"
    xdreg.save(field, path)
    opened = xdreg.open_field(path)
    assert name in str(opened.attrs)
    assert opened.dreg._repr_html_()
    assert xdreg_command("info", path)[0] == 0
    pair = registered[0].fixed, registered[1]
    again = pair[0].dreg.register(
        pair[1], stages=xdreg.Translation(), metric="lncc", initial=opened,
        progress=False,
    )  # fmt: skip
    assert again.displacement.shape
    assert "imported_by_a_field" not in sys.modules
