"""What commands say on stderr: in a file, with --verbose, and with --quiet."""

import logging

import pytest

import xdreg


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    return xdreg.datasets.write_phantom_pair(folder, (48, 56), amplitude=1.0)


def run(command, paths, tmp_path, *options):
    return command(
        "register", *paths, "-o", tmp_path / "out", "--metric=lncc", *options
    )


def test_a_log_file_has_a_line_for_each_stage(paths, tmp_path, xdreg_command):
    code, out, err = run(xdreg_command, paths, tmp_path)
    assert code == 0
    assert err.count("begins") == err.count("ended after") >= 2
    assert out.splitlines()[-1].split() == ["verdict", "good"]


def test_verbose_does_the_same_on_a_terminal(
    paths, tmp_path, xdreg_command, monkeypatch
):
    for options, lines in ((), 0), (("--verbose",), 2):
        with monkeypatch.context() as patch:
            patch.setattr("sys.stderr.isatty", lambda: True)
            where = tmp_path / str(lines)
            _, _, err = run(xdreg_command, paths, where, *options)
        assert (err.count("ended after") >= lines) if lines else "ended" not in err


def test_quiet_leaves_the_result_and_errors(paths, tmp_path, xdreg_command):
    code, out, err = run(xdreg_command, paths, tmp_path, "-q")
    assert (code, err) == (0, "")
    assert "verdict" in out
    code, out, err = run(xdreg_command, paths, tmp_path, "-q")
    assert (code, out) == (1, "")
    assert "exists" in err


def test_speaking_leaves_the_process_as_it_was(paths, tmp_path, xdreg_command):
    log = logging.getLogger("xdreg")
    before = log.level, list(log.handlers)
    run(xdreg_command, paths, tmp_path, "--quiet")
    assert (log.level, list(log.handlers)) == before
