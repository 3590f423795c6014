"""Settings and fixtures shared by all tests."""

import sys
import warnings
from pathlib import Path

import pytest
from hypothesis import settings

#: Scripts for interpreters with libraries that tests cannot have beside others.
collect_ignore = ["helpers/spatialdata_pair.py", "helpers/torch_sampling.py"]

settings.register_profile("xdreg", deadline=None, max_examples=40)
settings.load_profile("xdreg")


HERE = Path(__file__).parent

#: Files that load Elastix, which takes 20 s in each process, or much of ITK: one
#: process runs them all.
#: The first needs few kernels, which another process compiles meanwhile.
ELASTIX = [
    "engines/test_elastix.py",
    "end_to_end/test_registration.py",
    "end_to_end/test_battery.py",
    "bridges/test_elastix_files.py",
    "bridges/test_files.py",
    "bridges/test_itk_dreg.py",
    "bridges/test_memory.py",
    "bridges/test_prepare.py",
    "bridges/test_transform_files.py",
    "bridges/test_vector_images.py",
    "cli/test_common.py",
    "cli/test_convert.py",
    "cli/test_inputs.py",
    "cli/test_landmarks.py",
    "end_to_end/test_oblique.py",
    "end_to_end/test_peers.py",
    "fields/test_composition.py",
    "fields/test_points.py",
    "numerics/test_interpolation.py",
    "numerics/test_itk_transforms.py",
]

#: What compiles most kernels, then what takes longest: processes are to end together.
NEXT = [
    "end_to_end/test_metric_choice.py",
    "end_to_end/test_cluster.py",
    "end_to_end/test_faults.py",
    "engines/test_pose.py",
    "end_to_end/test_determinism.py",
    "end_to_end/test_local_correlation.py",
    "engines/test_metric_choice.py",
    "end_to_end/test_resume.py",
    "engines/test_processes.py",
    "end_to_end/test_bad_blocks.py",
    "end_to_end/test_changed.py",
    "end_to_end/test_unreadable.py",
    "end_to_end/test_real_pairs.py",
    "registration/test_estimates.py",
    "end_to_end/test_padding.py",
    "end_to_end/test_s3.py",
    "end_to_end/test_channels.py",
    "end_to_end/test_mirror.py",
    "end_to_end/test_linear.py",
]
ORDER = {str(HERE / name): place for place, name in enumerate([*ELASTIX, *NEXT])}


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: ORDER.get(str(item.path), len(ORDER)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Share out files in their order here, those with Elastix as if they were one."""
    if config.option.dist != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            return "Elastix" if file.removeprefix("tests/") in ELASTIX else file

    config.option.loadscopereorder = False
    return Scheduling(config, log)


@pytest.fixture(scope="module", autouse=True)
def elastix_comes_first(request):
    """Load Elastix before a test reads a transform.

    ITK crashes in a process that loads it between two reads.
    """
    here = any(request.path == HERE / name for name in ELASTIX)
    if here and (itk := sys.modules.get("itk")):
        getattr(itk, "ElastixRegistrationMethod", None)


@pytest.fixture
def xdreg_command(monkeypatch, capsys):
    """Run the command in this process; return its exit code, stdout and stderr."""
    from xdreg.cli.main import main

    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["xdreg", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code or 0, *capsys.readouterr()

    return run
