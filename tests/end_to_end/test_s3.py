"""Images read from S3 and results written to it, on a local server."""

import warnings

import numpy as np
import pytest
import xarray as xr

import xdreg

moto = pytest.importorskip("moto.server")
s3fs = pytest.importorskip("s3fs")

STAGES = [xdreg.LocalCorrelation(level=0, iterations=3, metric="lncc")]
OPTIONS = {"stages": STAGES, "block_shape": 24, "progress": False}


@pytest.fixture(scope="module")
def server():
    """Yield the address of an S3 server."""
    with pytest.MonkeyPatch.context() as patch:
        # No credentials of a real account are used.
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        server = moto.ThreadedMotoServer(port=0)
        server.start()
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
        server.stop()


@pytest.fixture
def keyed(server):
    return {"endpoint_url": server, "key": "test", "secret": "test"}


@pytest.fixture
def anonymous(server):
    return {"endpoint_url": server, "anon": True}


@pytest.fixture
def bucket(keyed, request):
    """Return a filesystem and the name of a bucket that anyone may read."""
    files = s3fs.S3FileSystem(**keyed, skip_instance_cache=True)
    name = f"bucket-{abs(hash(request.node.name)) % 10**8}"
    files.mkdir(name, acl="public-read")
    return files, name


@pytest.fixture(scope="module")
def images():
    pair = xdreg.datasets.phantom_pair((64, 72), amplitude=1.0)
    return pair.fixed.compute(), pair.moving.compute()


def put(files, folder, place):
    files.put(str(folder), place, recursive=True, ACL="public-read")


@pytest.mark.parametrize("access", ["keyed", "anonymous"])
def test_a_pair_is_registered_from_s3(tmp_path, bucket, images, access, request):
    options = request.getfixturevalue(access)
    files, name = bucket
    local, remote = [], []
    for image, which in zip(images, ("fixed", "moving"), strict=True):
        xdreg.save(image, tmp_path / f"{which}.zarr", chunks=24)
        put(files, tmp_path / f"{which}.zarr", f"{name}/{which}.zarr")
        local.append(xdreg.open_ome_zarr(tmp_path / f"{which}.zarr"))
        remote.append(
            xdreg.open_ome_zarr(f"s3://{name}/{which}.zarr", storage_options=options)
        )
    one, other = (xdreg.register(*pair, **OPTIONS) for pair in (local, remote))
    np.testing.assert_array_equal(one.displacement, other.displacement)
    assert (other.block_status == 0).all()


@pytest.mark.parametrize("version", ["0.4", "0.5", "0.6"])
def test_an_image_is_written_to_s3(keyed, bucket, images, version):
    url = f"s3://{bucket[1]}/folder/image.zarr"
    xdreg.save(images[0], url, version=version, levels=2, storage_options=keyed)
    tree = xdreg.open_ome_zarr(url, storage_options=keyed)
    np.testing.assert_array_equal(tree["scale0/image"], images[0])
    assert "scale1" in tree.children


def test_results_are_written_to_s3(keyed, bucket, images):
    field = xdreg.register(*images, **OPTIONS)
    url = f"s3://{bucket[1]}/out"
    xdreg.save(field, f"{url}/field.zarr", storage_options=keyed)
    again = xdreg.open_field(f"{url}/field.zarr", storage_options=keyed)
    xr.testing.assert_identical(again.load(), field.load())
    moved = field.dreg.warp(images[1])
    moved.dreg.to_ome_zarr(f"{url}/moved.zarr", storage_options=keyed)
    back = xdreg.open_ome_zarr(f"{url}/moved.zarr", level=0, storage_options=keyed)
    np.testing.assert_array_equal(back, moved)


def test_nothing_on_s3_is_overwritten_unless_asked(keyed, bucket, images):
    files, name = bucket
    url, options = f"s3://{name}/image.zarr", {"storage_options": keyed}
    xdreg.save(images[0], url, levels=2, **options)
    with pytest.raises(xdreg.StoreError, match=r"exists; .*overwrite=True"):
        xdreg.save(images[1], url, **options)
    xdreg.save(images[1], url, levels=1, overwrite=True, **options)
    tree = xdreg.open_ome_zarr(url, **options)
    np.testing.assert_array_equal(tree["scale0/image"], images[1])
    assert not any(f"{name}/image.zarr/1" in path for path in files.find(name))
    files.pipe_file(f"{name}/papers/thesis.txt", b"years of work")
    with pytest.raises(xdreg.StoreError, match="not a Zarr store"):
        xdreg.save(images[0], f"s3://{name}/papers", overwrite=True, **options)
    assert files.cat_file(f"{name}/papers/thesis.txt") == b"years of work"


def test_what_is_cut_off_is_no_store(keyed, bucket, images):
    files, name = bucket
    url, options = f"s3://{name}/image.zarr", {"storage_options": keyed}

    def fail(block):
        raise RuntimeError

    broken = images[0].chunk(24)
    broken = broken.copy(data=broken.data.map_blocks(fail, dtype=broken.dtype))
    with pytest.raises(RuntimeError):
        xdreg.save(broken, url, **options)
    assert files.find(name) == []
    with pytest.raises(xdreg.StoreError):
        xdreg.open_ome_zarr(url, **options)


def test_what_a_killed_process_left_is_no_store_and_is_replaced(keyed, bucket, images):
    files, name = bucket
    url, options = f"s3://{name}/image.zarr", {"storage_options": keyed}
    xdreg.save(images[0], url, **options)
    # The state that a process leaves when it is killed before the last two writes.
    files.rm_file(f"{name}/image.zarr/zarr.json")
    files.pipe_file(f"{name}/image.zarr/.xdreg-unfinished", b"")
    with pytest.raises(xdreg.StoreError):
        xdreg.open_ome_zarr(url, **options)
    xdreg.save(images[1], url, **options)
    opened = xdreg.open_ome_zarr(url, level=0, **options)
    np.testing.assert_array_equal(opened, images[1])
    assert not any("unfinished" in path for path in files.find(name))


def test_refusals_of_s3_are_store_errors(keyed, images):
    with pytest.raises(xdreg.StoreError, match=r"s3://nowhere/image\.zarr"):
        xdreg.open_ome_zarr("s3://nowhere/image.zarr", storage_options=keyed)
    with (
        warnings.catch_warnings(),
        pytest.raises(xdreg.StoreError, match=r"s3://nowhere/image\.zarr"),
    ):
        warnings.simplefilter("ignore")
        xdreg.save(images[0], "s3://nowhere/image.zarr", storage_options=keyed)
    with pytest.raises(xdreg.StoreError, match="cannot be written"):
        xdreg.save(
            images[0],
            "s3://nowhere/image.zarr",
            storage_options={"endpoint_url": keyed["endpoint_url"], "anon": True},
        )
