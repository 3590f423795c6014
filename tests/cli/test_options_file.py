"""Options files, plans and answers for scripts, run in this process."""

import json
from typing import ClassVar

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


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    return xdreg.datasets.write_phantom_pair(folder, (72, 80), amplitude=2.0)


@pytest.mark.parametrize("suffix", ["toml", "yaml"])
def test_what_a_run_used_gives_the_same_result(xdreg_command, pair, tmp_path, suffix):
    file = tmp_path / f"run.{suffix}"
    options = ["--block-shape", "40,48", "--save-options", file, "--json"]
    code, out, _ = xdreg_command("register", *pair, "-o", tmp_path / "one", *options)
    assert code == 0
    told = json.loads(out)
    assert told["blocks"] == {"success": 4}
    assert told["agreement"]["after"] > told["agreement"]["before"]
    stored = read_options(file)
    assert stored["fixed"] == str(pair[0])
    assert {stage.metric for stage in stored["stages"]} == {"lncc"}
    code, _, _ = xdreg_command(
        "register", "--options", file, "-o", tmp_path / "two", "--no-progress"
    )
    assert code == 0
    one, two = (
        xdreg.open_field(tmp_path / name / "field.ome.zarr") for name in ("one", "two")
    )
    np.testing.assert_array_equal(one.displacement, two.displacement)


def test_the_command_line_comes_before_the_file(xdreg_command, pair, tmp_path):
    file = tmp_path / "run.toml"
    names = f'fixed = "{pair[0]}"\nmoving = "{pair[1]}"\n'
    file.write_text(names + 'metric = "mind"\nblock_shape = 32\n')

    def planned(*more):
        code, out, _ = xdreg_command("plan", "--options", file, "--json", *more)
        assert code == 0
        last = json.loads(out)["stages"][-1]
        return last["metric"], last["blocks"]

    assert planned() == ("mind", [3, 3])
    assert planned("--metric", "lncc") == ("lncc", [3, 3])
    assert planned("--block-shape", "72,40") == ("mind", [1, 2])


def test_an_option_that_stages_have_themselves_is_refused(
    xdreg_command, pair, tmp_path
):
    file = tmp_path / "run.toml"
    file.write_text('[[stages]]\nkind = "LocalCorrelation"\nblock_shape = 40\n')
    code, _, err = xdreg_command(
        "plan", *pair, "--options", file, "--block-shape", "32"
    )
    assert code == 1
    assert "--block-shape has no effect on stage 0" in err
    code, _, _ = xdreg_command("plan", *pair, "--options", file, "--metric", "mind")
    assert code == 0


def test_a_plan_is_a_file_to_edit(xdreg_command, pair, tmp_path):
    file = tmp_path / "plan.yaml"
    code, out, _ = xdreg_command("plan", *pair, "--save-options", file)
    assert code == 0
    assert "local_correlation" in out
    assert isinstance(read_options(file)["stages"][0], xdreg.Affine)
    code, _, err = xdreg_command("plan", *pair, "--save-options", file)
    assert code == 1
    assert "--overwrite" in err


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


def test_a_matrix_and_a_transform_start_a_run(xdreg_command, pair, tmp_path):
    import itk

    matrix = tmp_path / "shift.csv"
    matrix.write_text("1,0,500\n0,1,0\n0,0,1\n")
    code, _, err = xdreg_command("register", *pair, "-o", tmp_path, "--initial", matrix)
    assert code == 1
    assert "initial maps fixed to 499" in err
    assert "a matrix of a translation: --initial" in err
    shift = itk.TranslationTransform[itk.D, 2].New()
    shift.SetOffset([1.0, 2.0])
    itk.transformwrite(shift, str(tmp_path / "shift.tfm"))
    code, _, _ = xdreg_command("plan", *pair, "--initial", tmp_path / "shift.tfm")
    assert code == 0
    matrix.write_text("1,x")
    code, _, err = xdreg_command("plan", *pair, "--initial", matrix)
    assert code == 1
    assert "homogeneous matrix" in err


def test_answers_for_scripts_are_json_and_nothing_else(xdreg_command, pair, tmp_path):
    _, out, _ = xdreg_command("info", pair[0], "--json")
    level = json.loads(out)["levels"][0]
    assert (level["shape"], level["units"]) == ([72, 80], "micrometer")
    image = xdreg.open_ome_zarr(pair[0], level=0)
    xdreg.from_itk_transform(translation(), image).dreg.to_ome_zarr(tmp_path / "f.zarr")
    _, out, _ = xdreg_command("info", tmp_path / "f.zarr", "--json")
    assert json.loads(out)["grid"]["shape"] == [72, 80]
    _, out, _ = xdreg_command(
        "warp", tmp_path / "f.zarr", pair[1], "-o", tmp_path / "w.zarr", "--json"
    )
    assert json.loads(out) == {"moved": str(tmp_path / "w.zarr")}
    (tmp_path / "points.csv").write_text("y,x\n5,5\n500,5\n")
    _, out, _ = xdreg_command(
        "points",
        *(tmp_path / "f.zarr", tmp_path / "points.csv", "--json"),
        *("-o", tmp_path / "moved.csv"),
    )
    told = json.loads(out)
    assert (told["count"], told["unmapped"]) == (2, 1)
    _, out, _ = xdreg_command(
        "invert",
        *(tmp_path / "f.zarr", "--like", pair[1], "--json"),
        *("-o", tmp_path / "i.zarr"),
    )
    assert json.loads(out)["largest_residual"] < 1e-3


def translation():
    import itk

    shift = itk.TranslationTransform[itk.D, 2].New()
    shift.SetOffset([1.0, 2.0])
    return shift


def test_a_run_on_a_cluster(xdreg_command, pair, tmp_path):
    from distributed import LocalCluster, SchedulerPlugin

    class Seen(SchedulerPlugin):
        keys: ClassVar[set[str]] = set()

        def transition(self, key, *_, **__):
            self.keys.add(str(key))

    with LocalCluster(n_workers=1, processes=False, dashboard_address=None) as cluster:
        cluster.scheduler.add_plugin(Seen())
        code, out, _ = xdreg_command(
            *("register", *pair, "-o", tmp_path, "--metric", "lncc", "--json"),
            *("--scheduler", cluster.scheduler_address),
        )
    assert code == 0
    assert json.loads(out)["blocks"] == {"success": 1}
    assert any("register_linear" in key for key in Seen.keys)


def test_a_scheduler_that_does_not_answer_is_named(xdreg_command, pair, monkeypatch):
    monkeypatch.setattr("xdreg.cli.common.CONNECT_LIMIT", 0.2)
    code, _, err = xdreg_command(
        "register", *pair, "-o", "out", "--scheduler", "tcp://127.0.0.1:9"
    )
    assert code == 1
    assert "no Dask scheduler answers at tcp://127.0.0.1:9" in err
