"""The command itself: help, versions, remedies, and how it ends."""

import os
import pickle
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer

import xdreg
from tests.helpers.commands import ON_A_TERMINAL, run
from xdreg.cli.commands import SENTENCES
from xdreg.cli.main import app, describe

GROUP = typer.main.get_command(app)
COMMANDS = {name: GROUP.get_command(None, name) for name in SENTENCES}


#: Registers, slowly enough to be stopped in the midst of it.
SLOW = (
    ON_A_TERMINAL
    + """
import sys, time
import xdreg.engines.local_correlation, xdreg.registration.register_block
from xdreg.cli.main import main

done = xdreg.registration.register_block.register_block
def slowly(*arguments):
    time.sleep(0.5)
    return done(*arguments)

xdreg.registration.register_block.register_block = slowly
main()
"""
)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example_that_names_its_arguments(name, xdreg_command):
    code, out, _ = xdreg_command(name, "--help")
    assert code == 0
    assert re.search(rf"Example: xdreg {name}\b", out)
    for parameter in COMMANDS[name].params:
        assert getattr(parameter, "help", None), f"{name} {parameter.name}"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_all_commands_has_the_first_line_of_each(name):
    assert COMMANDS[name].help.splitlines()[0] == SENTENCES[name]


def test_version(xdreg_command):
    assert xdreg_command("--version")[1].strip() == f"xdreg {xdreg.__version__}"


def test_completion_can_be_installed(xdreg_command):
    assert "--install-completion" in xdreg_command("--help")[1]


def test_remedies_name_options_not_arguments():
    error = xdreg.InputError("name it", moving_channel=..., metric="ncc")
    assert describe(error) == "name it: --moving-channel, --metric ncc"
    assert str(error) == "name it: moving_channel=..., metric='ncc'"
    assert describe(pickle.loads(pickle.dumps(error))) == describe(error)
    assert describe(xdreg.StoreError("it exists", overwrite=True)) == (
        "it exists: --overwrite"
    )
    assert describe(xdreg.StoreError("overwrite=True")) == "overwrite=True"


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Make images that do not go together, and what is no image."""
    folder = tmp_path_factory.mktemp("places")
    image = xdreg.datasets.phantom_pair((40, 48)).fixed
    xdreg.save(image, folder / "fixed.zarr")
    for name, units in (("metres", "meter"), ("bare", None)):
        other = xdreg.datasets.phantom_pair((40, 48), origin=900, units=units).fixed
        xdreg.save(other, folder / f"{name}.zarr")
    (folder / "text.txt").write_text("no image")
    (folder / "empty").mkdir()
    return folder


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["info", "no.zarr"], ["no.zarr does not exist"]),
        (["info", "text.txt"], ["ITK cannot read"]),
        (["info", "empty"], ["expected a file"]),
        (["register", "fixed.zarr", "metres.zarr", "-o", "out"], ["units"]),
        (["register", "fixed.zarr", "bare.zarr", "-o", "out"], ["unit"]),
        (
            ["register", "fixed.zarr", "fixed.zarr", "-o", "out", "--retry", "crashed"],
            ["name its directory: --workdir"],
        ),
        (
            ["register", "fixed.zarr", "fixed.zarr", "-o", "out", "--block-shape", "a"],
            ["--block-shape takes whole numbers"],
        ),
        (
            ["register", "fixed.zarr", "fixed.zarr", "-o", "fixed.zarr/zarr.json"],
            ["choose"],
        ),
    ],
)
def test_a_mistake_is_one_line_with_its_remedy(
    monkeypatch, xdreg_command, places, arguments, words
):
    monkeypatch.chdir(places)
    code, out, err = xdreg_command(*arguments)
    assert code == 1
    assert out == ""
    assert len(err.strip().splitlines()) == 1
    for word in words:
        assert word in err
    names = {p.name for command in COMMANDS.values() for p in command.params}
    assert not re.search(rf"\b({'|'.join(names)})=", err)


@pytest.mark.skipif(os.name == "nt", reason="signals are those of POSIX")
def test_an_interrupt_says_how_to_resume(tmp_path):
    paths = xdreg.datasets.write_phantom_pair(tmp_path, (96, 96), amplitude=2.0)
    run = tmp_path / "run"
    arguments = ["register", *paths, "-o", tmp_path / "out", "--workdir", run]
    arguments += ["--block-shape", "24", "--metric", "lncc"]
    command = [sys.executable, "-c", SLOW, *map(str, arguments)]
    # In a group of its own, as a shell would start it.
    with subprocess.Popen(command, stderr=subprocess.PIPE, encoding="utf-8") as process:
        while not list(run.glob("stage_*/records/*.0")) and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        _, err = process.communicate()
        took = time.monotonic() - began
    assert process.returncode == 130, err
    assert took < 5
    assert err.strip().splitlines()[-1] == (
        f"xdreg: stopped; finished blocks are kept in {run}: the same command resumes"
    )
    assert not (tmp_path / "out" / "field.ome.zarr").exists()


def test_a_users_mistake_is_one_clear_line(tmp_path):
    done = run(
        "register", tmp_path / "no.zarr", tmp_path / "no.zarr", "-o", tmp_path / "o"
    )
    assert done.returncode == 1
    assert "does not exist" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_argument_is_another_code(xdreg_command):
    assert xdreg_command("register", "only-one")[0] == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_an_output_that_is_full_is_one_line(places, as_json):
    code = "from xdreg.cli.main import main; main()"
    command = [sys.executable, "-c", code, "info", places / "fixed.zarr", *as_json]
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, encoding="utf-8", check=False
        )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "cannot be written: No space left" in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="folders in use stay there")
def test_a_folder_that_is_gone_is_one_line(tmp_path, monkeypatch, xdreg_command):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for arguments in (["info", "f.zarr"], ["convert", "f.zarr", "g.zarr"]):
        code, _, err = xdreg_command(*arguments)
        assert code in (1, 2)
        assert len(err.splitlines()) == 1, err
    assert "current folder was removed" in err


CHILD = """
import os, resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime)
"""


def cpu_seconds(*command):
    """Return the processor's time that a command takes."""
    whole = [sys.executable, "-c", CHILD, sys.executable, *map(str, command)]
    done = subprocess.run(whole, check=True, capture_output=True, encoding="utf-8")
    return float(done.stdout)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Return the paths of an image and of a field."""
    folder = tmp_path_factory.mktemp("stored")
    pair = xdreg.datasets.phantom_pair((40, 48), amplitude=1.0)
    field = pair.fixed.dreg.register(pair.moving, metric="lncc", progress=False)
    paths = folder / "fixed.ome.zarr", folder / "field.ome.zarr"
    for what, path in zip((pair.fixed, field), paths, strict=True):
        xdreg.save(what, path)
    return paths


@pytest.mark.skipif(os.name == "nt", reason="the times are those of POSIX")
def test_help_and_info_take_hardly_longer_than_the_import(stored):
    commands = {"--help": 1.2, **{f"info {path}": 1.5 for path in stored}}
    # The least of some tries is what a busy machine disturbs least.
    for _ in range(4):
        whole = min(cpu_seconds("-c", "import xdreg") for _ in range(2))
        ratios = {
            words: min(cpu_seconds("-m", "xdreg", *words.split()) for _ in range(2))
            / whole
            for words in commands
        }
        if all(ratios[words] <= most for words, most in commands.items()):
            return
    pytest.fail(str(ratios))


@pytest.mark.parametrize("kind", [0, 1], ids=["image", "field"])
def test_info_imports_nothing_slow(stored, kind):
    code = (
        "import atexit, sys; from xdreg.cli.main import main; "
        "names = 'itk dask scipy numba ngff_zarr matplotlib'.split(); "
        "atexit.register(lambda: print([m for m in names if m in sys.modules])); "
        f"sys.argv = ['xdreg', 'info', {str(stored[kind])!r}]; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_import_is_light():
    heavy = "('itk', 'dask', 'distributed', 'napari', 'numba', 'matplotlib')"
    code = f"import sys, xdreg; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True
    )
    assert done.stdout.strip() == "[]"
