"""Settings and fixtures shared by all tests."""

import sys
import warnings

import pytest
from hypothesis import settings

#: Scripts for interpreters with libraries that tests cannot have beside others.
collect_ignore = ["helpers/spatialdata_pair.py", "helpers/torch_sampling.py"]

settings.register_profile("xdreg", deadline=None, max_examples=40)
settings.load_profile("xdreg")


@pytest.fixture(scope="session", autouse=True)
def elastix_comes_first():
    """Load Elastix before any test reads a transform.

    ITK crashes in a process that loads it between two reads.
    """
    if itk := sys.modules.get("itk"):
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
