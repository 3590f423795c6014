"""Random damage to work directories, images and fields.

Each case is the right result, or an error of xdreg's own: never another exception, an
endless wait, or another field.
"""

import pytest

from tests.helpers.fuzzing import KINDS

#: Seeds that are tried in every run of the tests.
SEEDS = {"workdir": range(20), "image": range(10), "field": range(3)}

#: Seeds that failed once.
FAILED = {"workdir": [170], "image": [32], "field": [10, 29, 34]}


@pytest.fixture(scope="module", params=KINDS)
def cases(request, tmp_path_factory):
    """Return the cases of a kind, and the seeds to try."""
    kind = request.param
    made = KINDS[kind](tmp_path_factory.mktemp(kind))
    return made, [*SEEDS[kind], *FAILED[kind]]


def test_damage_is_mended_or_refused(cases):
    made, seeds = cases
    found = {seed: fault for seed in seeds if (fault := made.fault(seed))}
    assert not found
