"""Inversion of a displacement field with SimpleITK, in an environment that has it.

``python inverse_peers.py METHOD FIELD OUT THREADS`` reads and writes vector images, and
prints the CPU seconds of the inversion alone as JSON.
"""

import json
import sys
import time

import SimpleITK

METHODS = {
    # Chen et al. 2008, as ANTs runs it.
    "InvertDisplacementField": lambda field: SimpleITK.InvertDisplacementField(
        field,
        maximumNumberOfIterations=50,
        maxErrorToleranceThreshold=0.01,
        meanErrorToleranceThreshold=0.001,
        enforceBoundaryCondition=False,
    ),
    "IterativeInverse": lambda field: SimpleITK.IterativeInverseDisplacementField(
        field, numberOfIterations=20, stopValue=0.01
    ),
}


def main():
    """Run the method that the command line names."""
    method, source, out, threads = sys.argv[1:]
    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(int(threads))
    field = SimpleITK.ReadImage(source, SimpleITK.sitkVectorFloat64)
    began = time.process_time()
    inverse = METHODS[method](field)
    seconds = time.process_time() - began
    inverse = SimpleITK.Cast(inverse, SimpleITK.sitkVectorFloat32)
    SimpleITK.WriteImage(inverse, out)
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
