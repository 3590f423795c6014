"""Arrays that behave as those on a GPU: no step to the host, or back, is silent.

`SPACE` has the functions of NumPy and scipy.ndimage. Its arrays refuse to become arrays
of NumPy, and its functions and operators refuse those, as CuPy's do.
"""

import operator

import numpy as np
import scipy.ndimage

from xdreg.numerics.arrays import ArraySpace


def inner(value):
    """Return a value for NumPy; raise if it is an array of the host."""
    if isinstance(value, np.ndarray):
        msg = "Unsupported type <class 'numpy.ndarray'>"
        raise TypeError(msg)
    if isinstance(value, tuple | list):
        return type(value)(map(inner, value))
    return value.values if isinstance(value, DeviceArray) else value


def outer(value):
    """Return a result of NumPy as on the device; numbers are arrays there, too."""
    if isinstance(value, tuple):
        return tuple(map(outer, value))
    if isinstance(value, np.ndarray | np.generic):
        return DeviceArray(np.asarray(value))
    return value


def on_device(function):
    """Return a function of NumPy for arrays on the device."""

    def called(*arguments, **options):
        given = {name: inner(value) for name, value in options.items()}
        return outer(function(*map(inner, arguments), **given))

    return called


class DeviceArray:
    """An array on the device."""

    # Operators of NumPy leave the work to those below.
    __array_ufunc__ = None

    def __init__(self, values):
        self.values = values

    def __array__(self, *_, **__):
        msg = "Implicit conversion to a NumPy array is not allowed"
        raise TypeError(msg)

    def __getattr__(self, name):
        if name.startswith("__"):  # __array_interface__ hands the memory on
            raise AttributeError(name)
        value = getattr(self.values, name)
        return on_device(value) if callable(value) else value

    def __getitem__(self, key):
        return outer(self.values[inner(key)])

    def __setitem__(self, key, value):
        self.values[inner(key)] = inner(value)

    def __iter__(self):
        return (self[i] for i in range(len(self.values)))

    def __float__(self):
        return float(self.values)

    def __int__(self):
        return int(self.values)

    def __bool__(self):
        return bool(self.values)


def in_place(function):
    """Return an operator that changes an array."""

    def called(array, other):
        array.values = function(array.values, inner(other))
        return array

    return called


def _operators():
    names = ("add", "sub", "mul", "truediv", "and_", "or_", "pow", "lt", "le", "gt")
    for name in (*names, "ge", "eq", "ne"):
        plain, function = name.rstrip("_"), getattr(operator, name)
        yield f"__{plain}__", lambda a, b, f=function: on_device(f)(a, b)
        yield f"__r{plain}__", lambda a, b, f=function: on_device(f)(b, a)
    for name in ("iadd", "isub", "imul", "itruediv", "iand", "ior"):
        yield f"__{name}__", in_place(getattr(operator, name))
    for name in ("neg", "invert", "abs"):
        yield f"__{name}__", on_device(getattr(operator, name))


for _name, _function in _operators():
    setattr(DeviceArray, _name, _function)


class Namespace:
    """A module whose functions work on the device."""

    def __init__(self, module):
        self._module = module

    def __getattr__(self, name):
        value = getattr(self._module, name)
        return on_device(value) if callable(value) else value


class DeviceNumPy(Namespace):
    """NumPy on the device, with the only two ways there and back."""

    @staticmethod
    def asarray(array):
        """Return a copy of an array on the device."""
        return DeviceArray(np.array(array))

    @staticmethod
    def asnumpy(array):
        """Return a copy of an array of the device."""
        return array.values.copy()


SPACE = ArraySpace(DeviceNumPy(np), Namespace(scipy.ndimage), "stand-in", lambda: None)
