"""Disks that fill up, become read-only or go away: one clear error, nothing lost."""

import pytest

from tests.helpers.disks import PASSED, TRIALS, can_mount, run_trials


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Return what came of all trials that this system lets run."""
    mounts = can_mount()
    names = list(TRIALS) if mounts else ["limited_files"]
    return run_trials(names, tmp_path_factory.mktemp("disks"), mounts=mounts)


@pytest.mark.parametrize("name", TRIALS)
def test_a_fault_is_one_error_and_loses_nothing(name, outcomes):
    if name not in outcomes:
        pytest.skip("this system gives processes no mounts of their own")
    assert outcomes[name] == PASSED
