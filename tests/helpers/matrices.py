"""Homogeneous matrices of known motions, and distances between them."""

import itertools
import json

import numpy as np

#: An affine transform that turns, scales and shifts, in two dimensions.
TURN = np.array([[0.9, 0.1, 3.0], [-0.2, 1.1, -4.0], [0.0, 0.0, 1.0]])


def affine(ndim, seed=0):
    rng = np.random.default_rng(seed)
    matrix = np.eye(ndim + 1)
    matrix[:-1] += 0.1 * rng.normal(size=(ndim, ndim + 1))
    return matrix


def turn(ndim, degrees=12.0, scale=1.0):
    angle = np.deg2rad(degrees)
    matrix = np.eye(ndim + 1)
    matrix[ndim - 2 : ndim, ndim - 2 : ndim] = [
        [np.cos(angle), -np.sin(angle)],
        [np.sin(angle), np.cos(angle)],
    ]
    matrix[:ndim, :ndim] *= scale
    matrix[:ndim, ndim] = np.arange(ndim) * 3 - 4
    return matrix


def applied(matrix, points):
    return points @ matrix[:-1, :-1].T + matrix[:-1, -1]


def corners_error(matrix, truth, shape):
    corners = np.array(list(itertools.product(*((0, n - 1.0) for n in shape))))
    gap = applied(matrix, corners) - applied(truth, corners)
    return np.linalg.norm(gap, axis=1).max()


def matrix_of(field):
    """Return the matrix of a linear field."""
    return np.array(json.loads(field.attrs["matrix"]))
