"""Imports only go down, and importing bdal brings nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "bdal"

# From the ground to the roof. A module imports from its own room and from rooms above it in this list.
ROOMS = [
    "types", "errors", "names",
    "information", "acquisition", "selection", "calibration",
    "backend", "likelihood", "pool", "committee", "model", "training", "posteriors",
    "testing", "strategy", "stopping", "loop",  # what users can check is also checked when they bring it to a query
    "environment", "models", "datasets", "contrib",
    "config", "answers", "store", "statistics", "report", "experiment", "labelling",
    "cli", "__main__",
]  # fmt: skip
PUBLIC = set(ROOMS[: ROOMS.index("environment") + 1])  # what `bdal/__init__.py` may bring
BATTERIES = {*ROOMS[ROOMS.index("models") :], ""}  # may use what is installed

JAX = {"jax", "numpy"}
LIBRARIES = {
    **dict.fromkeys(PUBLIC, JAX),
    "calibration": JAX | {"optax"},
    "likelihood": JAX | {"optax"},
    "training": JAX | {"optax"},
    "posteriors": JAX | {"optax"},
}
INSIDE_FUNCTIONS = {  # the adapters; hierarchical clusters
    "model": {"flax", "equinox", "haiku"},
    "selection": {"scipy"},
}


def module_name(path):
    """`bdal/selection/fold.py` -> `bdal.selection.fold`, `bdal/pool.py` -> `bdal.pool`."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def room(module):
    """The room of a module; "" for `bdal` itself."""
    return (module.split(".") + [""])[1]


def imports(source, module, is_package):
    """Every module that a source imports, absolute or relative, anywhere in it, and whether only inside a function."""
    tree = ast.parse(source)
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = module.split(".")
                here = here[: len(here) - node.level + is_package]
                base = ".".join([*here, base]) if base else ".".join(here)
            # `from bdal import pool` names a module, `from bdal.pool import map_pool` a function of one
            names = [f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base for alias in node.names]
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in (
            "import_module",
            "__import__",
        ):
            names = [argument.value for argument in node.args[:1] if isinstance(argument, ast.Constant)]
        else:
            continue
        for name in names:
            yield name, id(node) in inside


def violations(source, module, is_package=False):
    """What a module may not import, in words."""
    own = room(module)
    for name, inside in imports(source, module, is_package):
        top = name.split(".")[0]
        if top == "bdal":
            other = room(name)
            if own == "":
                if other not in PUBLIC:
                    yield f"{module} imports {name}, which is no part of `import bdal`"
            elif other == "" and own not in ("cli", "__main__"):
                yield f"{module} imports the whole of bdal"
            elif other != "" and ROOMS.index(other) > ROOMS.index(own):
                yield f"{module} imports {name}, which stands above it"
        elif top not in sys.stdlib_module_names and own not in BATTERIES:
            allowed = LIBRARIES[own] | (INSIDE_FUNCTIONS.get(own, set()) if inside else set())
            if top not in allowed:
                yield f"{module} imports {name}; its room may use {', '.join(sorted(allowed))}"


def test_every_module_has_a_room():
    assert {room(module) for module in MODULES} == {*ROOMS, ""}, "name the new room's place in ROOMS"


@pytest.mark.parametrize("module", MODULES)
def test_imports_only_go_down(module):
    path = MODULES[module]
    assert list(violations(path.read_text(), module, is_package=path.name == "__init__.py")) == []


@pytest.mark.parametrize(
    ("source", "module", "is_package", "word"),
    [
        ("from bdal.loop import ask", "bdal.pool", False, "bdal.loop, which stands above"),
        ("import bdal.experiment.run as r", "bdal.strategy", False, "bdal.experiment.run, which stands above"),
        ("from bdal import strategy", "bdal.selection.fold", False, "bdal.strategy, which stands above"),
        ("from .. import loop", "bdal.selection.fold", False, "bdal.loop, which stands above"),
        ("from ..loop import ask", "bdal.selection.fold", False, "bdal.loop, which stands above"),
        ("from . import loop", "bdal.pool", False, "bdal.loop, which stands above"),
        ("from ..strategy import query", "bdal.selection", True, "bdal.strategy, which stands above"),
        ("from bdal.experiment.run import run", "bdal.report.page", False, "bdal.experiment.run, which stands above"),
        ("from bdal import store", "bdal.answers.reading", False, "bdal.store, which stands above"),
        ("def f():\n    from ..training import train", "bdal.selection.fold", False, "bdal.training, which stands"),
        ("import importlib\nimportlib.import_module('bdal.loop')", "bdal.pool", False, "bdal.loop, which stands above"),
        ("from bdal import Committee", "bdal.pool", False, "the whole of bdal"),
        ("import bdal", "bdal.experiment.run", False, "the whole of bdal"),
        ("from bdal import experiment", "bdal", True, "no part of `import bdal`"),
        ("from bdal.models import CNN", "bdal", True, "no part of `import bdal`"),
        ("import flax", "bdal.committee", False, "may use jax, numpy"),
        ("import equinox", "bdal.model", False, "may use jax, numpy"),
        ("def f():\n    from flax import nnx", "bdal.training", False, "may use jax, numpy, optax"),
        ("import scipy.special", "bdal.acquisition.uncertainty", False, "may use jax, numpy"),
        ("from optax import adam", "bdal.selection.fold", False, "may use jax, numpy"),
    ],
)
def test_the_check_sees_an_import_that_goes_up(source, module, is_package, word):
    (found,) = violations(source, module, is_package)
    assert word in found


@pytest.mark.parametrize(
    ("source", "module", "is_package"),
    [
        ("from bdal.selection.fold import Query", "bdal.selection.ranking", False),
        ("from .fold import Query\nfrom ..errors import check_query", "bdal.selection.ranking", False),
        ("from .fold import Query", "bdal.selection", True),
        ("from bdal import acquisition, selection", "bdal.strategy", False),
        ("from bdal.environment import versions", "bdal.store.directory", False),
        ("import math\nimport jax.numpy as jnp\nimport numpy", "bdal.selection.fold", False),
        ("def f():\n    from flax import nnx", "bdal.model", False),
        ("def f():\n    import equinox as eqx", "bdal.model", False),
        ("import matplotlib", "bdal.report.figures", False),
    ],
)
def test_the_check_lets_pass_what_goes_down(source, module, is_package):
    assert list(violations(source, module, is_package)) == []


HEAVY = ["tensorflow", "tensorflow_datasets", "matplotlib", "scipy.stats", "pandas", "torch", "sklearn", "rich"]
HEAVY += ["flax", "equinox", "haiku"]


@pytest.mark.parametrize("statement", ["import bdal", "import bdal.testing, bdal.loop, bdal.posteriors"])
def test_importing_bdal_brings_nothing_heavy(statement):
    code = f"import sys; {statement}; print([name for name in {HEAVY} if name in sys.modules], 'jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "[] True", done.stderr
