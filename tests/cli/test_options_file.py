"""Options files, read and written."""

import json

import numpy as np
import pytest

import xdreg
from xdreg.cli.options_file import KINDS, read_options, stage_table
from xdreg.errors import InputError, StoreError
from xdreg.stages import Blockwise


def smooth(fixed, moving, sigma=1.0):
    """Return no displacement: a method that an options file can name."""
    zero = np.zeros((fixed.ndim, *fixed.shape), np.float32)
    return fixed.expand_dims(component=list(fixed.dims)).copy(data=zero * sigma)


def first(results):
    """Return a motion of nothing: a reduction that an options file can name."""
    return np.eye(next(iter(results)).core.ndim + 1)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_stage_is_written_and_read(kind, pair, tmp_path):
    given = {}
    if kind == "Custom":
        given = {"method": smooth, "options": {"sigma": 0.5}, "reduction": first}
    if issubclass(KINDS[kind], Blockwise):
        given |= {"level": 0, "block_shape": (40, 48), "overlap": 4}
    images = [xdreg.open_ome_zarr(path) for path in pair]
    metric = "ncc" if kind == "BSpline" else "lncc"
    made = xdreg.plan(*images, stages=[KINDS[kind](**given)], metric=metric)
    table = stage_table(made.stages[0])
    file = tmp_path / "run.yaml"
    file.write_text(json.dumps({"stages": [table]}))
    again = xdreg.plan(*images, stages=read_options(file)["stages"])
    assert stage_table(again.stages[0]) == table


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fixed_image = 'a'", "'fixed_image'; expected fixed, moving"),
        ("fixed = 3", "fixed must be a path"),
        ("stages = 3", "list of tables"),
        ("[[stages]]\nkind = 'Elastic'", "stage 0 .* Affine"),
        ("[[stages]]\nkind = 'Affine'\nstep = 3", "stage 0, Affine, has 'step'"),
        ("[[stages]]\nkind = 'Affine'\nlevel = -1", "stage 0: level must be"),
        ("[[stages]]\nkind = 'Custom'\nmethod = 'no.such:thing'", "PYTHONPATH"),
        ("[[stages]]\nkind = 'Custom'\nmethod = 'smooth'", "'module:function'"),
    ],
)
def test_a_bad_file_is_named_with_its_entry(tmp_path, text, message):
    file = tmp_path / "run.toml"
    file.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_options(file)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("run.toml", "fixed = ", StoreError),
        ("run.yaml", "a: [", StoreError),
        ("run.yaml", "- a", InputError),
        ("run.ini", "", InputError),
    ],
)
def test_what_is_no_options_file_is_refused(tmp_path, name, text, error):
    (tmp_path / name).write_text(text)
    with pytest.raises(error):
        read_options(tmp_path / name)


def test_paths_are_relative_to_the_file(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('fixed = "a.zarr"\nmoving = "s3://b/c.zarr"\nfixed_mask = "auto"')
    assert read_options(file) == {
        "fixed": str(tmp_path / "a.zarr"),
        "moving": "s3://b/c.zarr",
        "fixed_mask": "auto",
    }


def test_a_file_runs_and_multiplies_nothing(tmp_path):
    file = tmp_path / "run.yaml"
    touched = tmp_path / "touched"
    file.write_text(f"fixed: !!python/object/apply:os.mkdir ['{touched}']")
    with pytest.raises(StoreError, match="is not YAML"):
        read_options(file)
    assert not touched.exists()
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{f'*a{i - 1}, ' * 10}]" for i in range(1, 9)]
    for text in ("\n".join([*lines, "stages: *a8"]), "a: &a [*a]"):
        file.write_text(text)
        with pytest.raises(StoreError, match="references"):
            read_options(file)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("run.yaml", "fixed: 2001-99-99"),
        ("run.yaml", "[" * 500),
        ("run.toml", "fixed = " + "[" * 5000),
        ("run.toml", "fixed = " + "9" * 5000),
        ("run.yaml", "1: a\nx: b"),
        ("run.yaml", "stages: [{kind: [Affine]}]"),
        ("run.yaml", "stages: [{kind: Affine, 1: 2, a: b}]"),
    ],
)
def test_odd_values_end_in_an_error_with_the_file(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(xdreg.XdregError, match=name):
        read_options(tmp_path / name)
