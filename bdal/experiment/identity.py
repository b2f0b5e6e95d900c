"""What a part of one's own was: enough of it to refuse another one in the same run directory.

A network is known by its shapes, the arrays that it closes over, and the program that it compiles to; what runs on the
host by its source.
"""

import hashlib
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import is_dataclass
from pathlib import Path
from types import CodeType
from typing import Any

import jax
import numpy as np
from jax.core import eval_jaxpr

from bdal.model import Model, trained_by


def of_factory(factory: Callable[..., Any], options: dict[str, Any]) -> dict[str, Any]:
    """A factory by its name, its options, its source, and what it closes over."""
    inner = inspect.unwrap(getattr(factory, "func", factory))
    return {
        "module": _module(inner),
        "name": getattr(inner, "__qualname__", type(inner).__qualname__),
        "options": options,
        "source": _source(inner),
        "constants": _digest(_closed_over(factory, set())),
    }


def of_model(model: Model, shape: tuple[int, ...], dtype: Any) -> dict[str, Any]:
    """A network by the shapes of its variables and outputs, the arrays that it closes over, and what it compiles to."""
    key, x = jax.eval_shape(lambda: jax.random.key(0)), jax.ShapeDtypeStruct(shape, dtype)
    batch = jax.ShapeDtypeStruct((2, *shape), dtype)
    variables = jax.eval_shape(model.init, key)
    functions = {
        "init": (model.init, (key,)),
        "apply": (lambda variables, x: model.apply(variables, None, x), (variables, x)),
        "apply with noise": (model.apply, (variables, key, x)),
        "train": (trained_by(model), (variables, key, batch)),
    }
    traced = {name: jax.make_jaxpr(function)(*arguments) for name, (function, arguments) in functions.items()}
    return {
        "variables": _said(traced["init"].out_avals),
        "outputs": _said(traced["apply"].out_avals),
        "constants": _digest(constant for each in traced.values() for constant in _constants(each.jaxpr, each.consts)),
        "programs": _digest(_program(each) for each in traced.values()),
    }


def _said(avals) -> str:
    """Shapes and dtypes in short."""
    every = " ".join(aval.str_short() for aval in avals)
    return every if len(avals) <= 3 else f"{len(avals)} arrays, {_digest([every])[:8]}"


def _program(traced) -> str:
    """The text that a traced function compiles to; arrays that it closes over, which may be large, are arguments."""
    constants = [jax.ShapeDtypeStruct(np.shape(each), jax.numpy.result_type(each)) for each in traced.consts]

    def run(constants, arguments):
        return eval_jaxpr(traced.jaxpr, constants, *arguments)

    arguments = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in traced.in_avals]
    return jax.jit(run).lower(constants, arguments).as_text()


def _constants(jaxpr, constants: Iterable[Any]) -> Iterator[Any]:
    """The arrays that a traced function and those inside it close over."""
    yield from constants
    for equation in jaxpr.eqns:
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda value: hasattr(value, "consts")):
            if hasattr(value, "consts"):
                yield from _constants(value.jaxpr, value.consts)


def _module(function: Callable[..., Any]) -> str:
    """The module of a function; a script that is run has the name that it would be imported by."""
    name = getattr(function, "__module__", None) or type(function).__module__
    file = getattr(sys.modules.get(name), "__file__", None)
    return Path(file).stem if name == "__main__" and file else name


def _source(function: Callable[..., Any]) -> str:
    """The SHA-256 of the file that a function is in; of its code where there is none, as in a notebook."""
    if not (inspect.isroutine(function) or inspect.isclass(function)):
        function = type(function)  # an object that is called
    try:
        file = inspect.getsourcefile(function)
    except TypeError:
        file = None
    if file is not None and Path(file).is_file():
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()
    code = getattr(function, "__code__", None)
    return "" if code is None else _digest(_of_code(code))


def _of_code(code: CodeType) -> Iterator[Any]:
    yield code.co_code
    yield str((code.co_names, code.co_varnames))
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _of_code(constant)
        else:
            yield repr(constant)


def _closed_over(value: Any, seen: set[int]) -> Iterator[Any]:
    """Numbers, text and arrays that a function holds: in its closure, its defaults, its `partial`, or its object."""
    if isinstance(value, str | bytes | int | float | bool | None | np.ndarray | jax.Array | np.generic):
        yield value if hasattr(value, "dtype") else repr(value)
        return
    if id(value) in seen:
        return
    seen.add(id(value))
    inner: list[Any] = []
    if isinstance(value, dict):
        inner = [each for item in value.items() for each in item]
    elif isinstance(value, list | tuple):
        inner = list(value)
    elif isinstance(value, set | frozenset):  # their order differs between processes
        inner = sorted(value, key=repr)
    elif hasattr(value, "func") and hasattr(value, "keywords"):  # a partial
        inner = [value.func, value.args, value.keywords]
    elif inspect.isfunction(value):
        cells = [cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell)]
        inner = [*cells, value.__defaults__, value.__kwdefaults__]
    elif inspect.ismethod(value):
        inner = [value.__self__, value.__func__]
    elif is_dataclass(value) or (callable(value) and not inspect.isclass(value)):
        inner = [getattr(value, "__dict__", None)]
    for each in inner:
        yield from _closed_over(each, seen)


def _is_filled(cell) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _digest(values: Iterable[Any]) -> str:
    digest = hashlib.sha256()
    for value in values:
        if hasattr(value, "dtype"):
            if jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key):
                value = jax.random.key_data(value)
            array = np.asarray(value)
            value = f"{array.dtype} {array.shape} ".encode() + np.ascontiguousarray(array).tobytes()
        digest.update(value if isinstance(value, bytes) else str(value).encode())
        digest.update(b"\0")
    return digest.hexdigest()
