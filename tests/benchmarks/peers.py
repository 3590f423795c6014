"""Registration with other packages, in their own environments.

``python peers.py NAME FIXED MOVING OUT REPEATS`` reads files that ITK reads, writes the
displacement field to OUT, and prints the seconds of every repeat as JSON: on the wall,
and of CPU. Reading and writing are not timed. Only greedy needs files on the way, in
the folder of OUT.
"""

import json
import os
import sys
import time
from pathlib import Path

THREADS = os.cpu_count()


def clock():
    """Return the time on the wall, and the CPU time of this process, in seconds."""
    return time.perf_counter(), time.process_time()


def since(began):
    """Return the seconds passed on both clocks."""
    return [now - then for now, then in zip(clock(), began, strict=True)]


def elastix(fixed, moving, out):
    """Run elastix with its default translation, affine and B-spline maps, whole images.

    One thread: its default B-spline map has two metrics, and crashes with more.
    """
    import itk

    images = [itk.imread(path, itk.F) for path in (fixed, moving)]
    maps = itk.ParameterObject.New()
    for name in ("translation", "affine", "bspline"):
        maps.AddParameterMap(maps.GetDefaultParameterMap(name))
    began = clock()
    _, found = itk.elastix_registration_method(
        *images, parameter_object=maps, number_of_threads=1
    )
    seconds = since(began)
    field = itk.transformix_deformation_field(images[1], found)
    itk.imwrite(field, out)
    return seconds


def elastix_threads(fixed, moving, out):
    """Run elastix as in `elastix` but with one metric, so that it can use all cores."""
    import itk

    images = [itk.imread(path, itk.F) for path in (fixed, moving)]
    maps = itk.ParameterObject.New()
    for name in ("translation", "affine", "bspline"):
        values = maps.GetDefaultParameterMap(name)
        values["Registration"] = ("MultiResolutionRegistration",)
        values["Metric"] = values["Metric"][:1]
        maps.AddParameterMap(values)
    began = clock()
    _, found = itk.elastix_registration_method(
        *images, parameter_object=maps, number_of_threads=THREADS
    )
    seconds = since(began)
    itk.imwrite(itk.transformix_deformation_field(images[1], found), out)
    return seconds


def elastix_affine(fixed, moving, out):
    """Run elastix from centre of mass on centre of mass: rigid, then affine."""
    import itk

    images = [itk.imread(path, itk.F) for path in (fixed, moving)]
    maps = itk.ParameterObject.New()
    for name in ("rigid", "affine"):
        values = maps.GetDefaultParameterMap(name)
        if name == "rigid":
            values["AutomaticTransformInitialization"] = ("true",)
            values["AutomaticTransformInitializationMethod"] = ("CenterOfGravity",)
        maps.AddParameterMap(values)
    began = clock()
    _, found = itk.elastix_registration_method(
        *images, parameter_object=maps, number_of_threads=THREADS
    )
    seconds = since(began)
    itk.imwrite(itk.transformix_deformation_field(images[1], found), out)
    return seconds


def greedy_affine(fixed, moving, out):
    """Run picsl-greedy's affine alone, from centre on centre."""
    from picsl_greedy import Greedy3D

    folder = Path(out).parent
    tool = Greedy3D()
    began = clock()
    tool.execute(
        f"-d 3 -m NCC 2x2x2 -i {fixed} {moving} -threads {THREADS} "
        f"-a -dof 12 -ia-image-centers -n 100x50x10 -o {folder}/a.mat"
    )
    seconds = since(began)
    tool.execute(f"-d 3 -rf {fixed} -r {folder}/a.mat -rc {out}")
    return seconds


def greedy(fixed, moving, out):
    """Run picsl-greedy: affine, then deformable, both by local correlation."""
    from picsl_greedy import Greedy3D

    folder = Path(out).parent
    tool = Greedy3D()
    common = f"-d 3 -m NCC 2x2x2 -i {fixed} {moving} -threads {THREADS}"
    began = clock()
    tool.execute(
        f"{common} -a -dof 12 -ia-image-centers -n 100x50x10 -o {folder}/a.mat"
    )
    tool.execute(f"{common} -it {folder}/a.mat -n 100x50x10 -o {folder}/w.nii.gz")
    seconds = since(began)
    tool.execute(f"-d 3 -rf {fixed} -r {folder}/w.nii.gz {folder}/a.mat -rc {out}")
    return seconds


def syn(fixed, moving, out):
    """Run ANTs: affine and SyN, at their defaults."""
    import ants

    images = [ants.image_read(path) for path in (fixed, moving)]
    began = clock()
    found = ants.registration(*images, type_of_transform="SyN")
    seconds = since(began)
    warp = ants.apply_transforms(
        *images, transformlist=found["fwdtransforms"], compose=f"{out}."
    )
    Path(warp).rename(out)
    return seconds


if __name__ == "__main__":
    name, fixed, moving, out, repeats = sys.argv[1:]
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = str(THREADS)
    tools = (
        elastix, elastix_threads, greedy, syn, elastix_affine, greedy_affine,
    )  # fmt: skip
    tool = {tool.__name__: tool for tool in tools}[name]
    print(json.dumps([tool(fixed, moving, out) for _ in range(int(repeats))]))
