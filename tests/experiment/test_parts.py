"""Parts of one's own: what `mine.py` has, from Python and from the shell, and what is refused of them."""

import functools
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bdal
from bdal import cli, config, labelling
from bdal.config.data import load
from bdal.config.parts import check_parts
from bdal.errors import ConfigError
from bdal.experiment import Parts, identity, load_committee, load_parts, run_experiment
from bdal.experiment.prepare import prepare
from bdal.report import report
from bdal.store import directory, durable
from tests.experiment import mine
from tests.experiment.test_run import Watch, events, files, of

SOURCE = Path(mine.__file__).read_text()
PARTS, RANDOM, RATIO = mine.PARTS, config.Named("random"), config.Named("ratio")
TREES = config.Comparison("bagging", 4, (RANDOM, RATIO))
HEADS = config.Comparison(config.Named("noisy_head", {"scale": 0.2}), 4, (RANDOM, RATIO))
MASKS = config.Comparison("mc_dropout", 4, (RANDOM, RATIO))


def experiment(*comparisons, **changes):
    """One seed of trees, which look at no network, unless it is said otherwise."""
    usual = {
        "name": "mine", "seeds": 1, "data": config.Data("stripes"), "model": None,
        "training": config.Training(steps=12, batch_size=8, min_steps=4, eval_every=4),
        "labels": config.Labels(budget=24, initial=8, validation=0.25), "query": config.Query(size=5, chunk_size=32),
    }  # fmt: skip
    return config.Experiment(comparisons=comparisons or (TREES,), **(usual | changes))


def with_parts(**more):
    """`PARTS` and more of them."""
    return PARTS._replace(**{kind: {**getattr(PARTS, kind), **parts} for kind, parts in more.items()})


def module(folder, *changes, name="mine"):
    """`mine.py` with changes, written to a folder and imported from there."""
    text = SOURCE
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / f"{name}.py").write_text(text)
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def refused(wanted, parts, workdir, **more):
    """What is said, in one line, before a directory is made."""
    with pytest.raises(ConfigError) as caught:
        run_experiment(wanted, workdir, parts=parts, progress=Watch(), **more)
    assert not workdir.exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": config.Named("nett")}, "model: got 'nett' (did you mean 'net'?), expected one of cnn, mlp, net; "),
        (
            {"comparisons": (config.Comparison("baging", 4, (RANDOM,)),)},
            "comparisons.0.posterior: got 'baging' (did you mean 'bagging'?), expected one of bagging, deep_ensemble, ",
        ),
        (
            {"comparisons": (TREES, config.Comparison("bagging", 4, (config.Named("ration"),)))},
            "comparisons.1.strategies.0: got 'ration' (did you mean 'ratio'?), expected one of ",
        ),
    ],
)
def test_a_name_that_nobody_knows(tmp_path, changes, message):
    found = refused(replace(experiment(), **changes), PARTS, tmp_path / "run")
    assert found.startswith(message)
    assert found.endswith("; one of your own comes by parts (--parts)")


def test_a_data_set_that_nobody_knows(tmp_path):
    with pytest.raises(ValueError, match=r"data set: expected optdigits, .*got 'strips'"):
        run_experiment(experiment(data=config.Data("strips")), tmp_path / "run", parts=PARTS)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (Parts(models={"mlp": mine.net}), "parts.models: 'mlp' is a name of bdal's own; choose another"),
        (Parts(posteriors={"snapshots": mine.bagging}), "parts.posteriors: 'snapshots' is a name of bdal's own; "),
        (Parts(strategies={"bald": mine.ratio}), "parts.strategies: 'bald' is a name of bdal's own; choose another"),
        (Parts(strategies={"vaal": mine.ratio}), "parts.strategies: 'vaal' is a name of bdal's own; choose another"),
        (Parts(datasets={"mnist": mine.stripes}), "parts.datasets: 'mnist' is a name of bdal's own; choose another"),
        (Parts(datasets={"given": mine.stripes}), "parts.datasets: 'given' is a name of bdal's own; choose another"),
        (Parts(models={"a/b": mine.net}), "parts.models: expected names of letters, digits and '_', got 'a/b'"),
        (Parts(models={3: mine.net}), "parts.models: expected names of letters, digits and '_', got 3"),
        (Parts(models={"net": 3}), "parts.models.net: expected a function, got a int"),
        (Parts(models=[mine.net]), "parts.models: expected a mapping of names to factories, got a list"),
        ({"models": {"net": mine.net}}, "parts: expected bdal.experiment.Parts, got a dict"),
    ],
)
def test_parts_that_are_none(tmp_path, parts, message):
    assert refused(experiment(), parts, tmp_path / "run").startswith(message)
    with pytest.raises(ConfigError):
        check_parts(parts)


def test_options_are_those_of_the_factory(tmp_path):
    for wanted, message in (
        (experiment(model=config.Named("net", {"wide": 3})), "model: model net: expected options width, got 'wide'"),
        (
            experiment(config.Comparison(config.Named("bagging", {"leafs": 3}), 4, (RANDOM,))),
            "comparisons.0.posterior: posterior bagging: expected options num_classes, leaf, got 'leafs'",
        ),
        (
            experiment(config.Comparison("bagging", 4, (config.Named("ratio", {"pow": 3}),))),
            "comparisons.0.strategies.0: strategy ratio: expected options power",
        ),
        (
            experiment(data=config.Data("stripes", options={"pionts": 3})),
            "data.options: data stripes: expected options points, labelled, got 'pionts'",
        ),
        (
            experiment(data=config.Data("optdigits", options={"points": 3})),
            "data.options: expected none, optdigits is no data set of one's own",
        ),
    ):
        assert refused(wanted, PARTS, tmp_path / "run").startswith(message)
    needs = with_parts(models={"deep": lambda shape, outputs, *, depth: mine.net(shape, outputs)})
    found = refused(experiment(model=config.Named("deep")), needs, tmp_path / "run")
    assert found == "model: model deep: expected the option 'depth', got no options"


# -- what does not fit ------------------------------------------------------------------------------------------------


def linear(rows):
    return bdal.model_from_functions(lambda key: jnp.ones((rows, 4)), lambda params, key, x: x.ravel() @ params)


def rains(shape, num_outputs):
    raise ValueError("it rains")


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (
            lambda shape, outputs: mine.net(shape, outputs + 1),
            "model: expected 4 logits of own, one a class, got shape (5,)",
        ),
        (lambda shape, outputs: 3, "model: expected own to give a bdal.Model, got a int"),
        (lambda shape, outputs: linear(7), "model: own fails on one input of shape (32, 32, 3): dot_general requires"),
        (rains, "model: own: it rains"),
    ],
)
def test_a_network_that_does_not_fit(tmp_path, factory, message):
    parts = with_parts(models={"own": factory})
    assert refused(experiment(model=config.Named("own")), parts, tmp_path / "run").startswith(message)


def test_what_is_no_fit_no_strategy_and_no_data_set(tmp_path):
    odd = with_parts(
        posteriors={"odd": lambda model, likelihood, how, *, members: 3},
        strategies={"odd": lambda: 3},
        datasets={"odd": lambda: 3},
    )
    for wanted, message in (
        (
            experiment(config.Comparison("odd", 4, (RANDOM,))),
            "comparisons.0.posterior: expected odd to give a fit, got",
        ),
        (
            experiment(config.Comparison("bagging", 4, (config.Named("odd"),))),
            "comparisons.0.strategies.0: expected odd to give a QueryStrategy, got a int",
        ),
        (experiment(data=config.Data("odd")), "data: expected a bdal.datasets.Dataset, got a int; see bdal.datasets."),
    ):
        assert refused(wanted, odd, tmp_path / "run").startswith(message)
    assert refused(experiment(), PARTS, tmp_path / "run", data=3).startswith("data: expected a bdal.datasets.Dataset")


def test_a_posterior_that_needs_a_network(tmp_path):
    assert refused(experiment(HEADS), PARTS, tmp_path / "run") == (
        "comparisons.0.posterior: model: expected a bdal.Model, got None"
    )
    assert refused(experiment(TREES, MASKS), PARTS, tmp_path / "run") == (
        "model: expected a network for mc_dropout, found null"
    )


class Other:
    """The trees' votes, changed."""

    def __init__(self, trees, change):
        self.trees, self.change = trees, change

    def log_probs(self, inputs):
        return self.change(self.trees.log_probs(inputs))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda votes: votes[:, :3], r"posterior own: expected a committee .* 4 members and 4 classes, got 3 and 4$"),
        (
            lambda votes: np.concatenate([votes, votes[..., :1] - 50], -1),
            "4 members and 4 classes, got 4 and 5$",
        ),
        (lambda votes: votes[:, 0], r"must have shape \[N, K, C\] \(members, classes last\), got \(8, 4\)"),
        (np.exp, "must be log-probabilities: .* these look like probabilities"),
        (lambda votes: votes * np.nan, "has NaN or"),
        (
            lambda votes: jax.nn.log_softmax(votes * np.arange(1, len(votes) + 1)[:, None, None]),  # of its place
            "expected members that are functions of one input",
        ),
    ],
)
def test_a_committee_of_ones_own_that_is_none(tmp_path, change, message):
    def own(model, likelihood, how, *, members):
        fit = mine.bagging(model, likelihood, how, members=members)
        return lambda key, data: Other(fit(key, data), change)

    with pytest.raises(ValueError, match=message):
        run_experiment(
            experiment(config.Comparison("own", 4, (RANDOM,))), tmp_path, parts=with_parts(posteriors={"own": own}),
            progress=Watch(),
        )  # fmt: skip
    assert not of("evaluated", events(tmp_path, "own/random", 0))


def test_what_is_no_committee_at_all(tmp_path):
    parts = with_parts(posteriors={"own": lambda model, likelihood, how, *, members: lambda key, data: object()})
    with pytest.raises(ConfigError, match=r"^posterior own: expected a committee with `log_probs`.*, got a object$"):
        run_experiment(experiment(config.Comparison("own", 4, (RANDOM,))), tmp_path, parts=parts, progress=Watch())


@pytest.mark.parametrize(("strategy", "lacks"), [("badge", "embedding"), ("expected_model_change", "features")])
def test_a_strategy_that_looks_at_what_a_committee_has_not(tmp_path, strategy, lacks):
    wanted = experiment(config.Comparison("bagging", 4, (config.Named(strategy),)))
    with pytest.raises(ConfigError, match=rf"^bagging/{strategy}: expected a committee with `{lacks}`, .* got Trees"):
        run_experiment(wanted, tmp_path, parts=PARTS, progress=Watch())


# -- a module that the shell names ------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, and modules as they were afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("own_"):
            del sys.modules[name]


@pytest.mark.parametrize(
    ("where", "text", "message"),
    [
        ("own_a", "", "--parts: expected package.module:NAME, found 'own_a'"),
        ("own_a:", "", "--parts: expected package.module:NAME, found 'own_a:'"),
        ("own_a.py:PARTS", None, "--parts: no module 'own_a', neither installed nor in the current folder"),
        ("own-a:PARTS", "", "--parts: expected package.module:NAME, found 'own-a:PARTS'"),
        ("own_a:PARTS", None, "--parts: no module 'own_a', neither installed nor in the current folder"),
        ("own_a.b:PARTS", "", "--parts: no module 'own_a.b', neither installed nor in the current folder"),
        ("own_a:PARTS", "", "--parts: own_a has no 'PARTS'; expected a bdal.experiment.Parts of that name"),
        ("own_a:PARTS", "PARTS = {}", "parts: expected bdal.experiment.Parts, got a dict"),
        ("own_a:PARTS", "import own_nowhere", "--parts: own_a imports 'own_nowhere', which is not installed"),
        ("own_a:PARTS", "1 / 0", "--parts: own_a cannot be imported: ZeroDivisionError: division by zero"),
        ("own_a:PARTS", "def", "--parts: own_a cannot be imported: SyntaxError: invalid syntax (own_a.py, line 1)"),
        ("own_a:PARTS", "from bdal import nothing", "--parts: own_a cannot be imported: ImportError: cannot import"),
    ],
)
def test_a_module_that_has_no_parts(folder, capsys, where, text, message):
    if text is not None:
        (folder / "own_a.py").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_parts(where)
    assert str(caught.value).startswith(message)
    (folder / "own.yaml").write_text(config.dump(experiment()))
    for command in (
        ["run", "own.yaml"], ["doctor", "own.yaml"], ["sweep", "own.yaml"], ["ask", "runs"], ["label", "runs"],
        ["tell", "runs", "x.csv"],
    ):  # fmt: skip
        assert cli.main([*command, "--parts", where]) == 2
        assert capsys.readouterr().err == f"bdal: {' '.join(str(caught.value).split())}\n"
    assert {path.name for path in folder.iterdir()} <= {"own_a.py", "own.yaml"}


def test_a_module_in_the_current_folder_or_in_a_package(folder):
    (folder / "own_b.py").write_text("from bdal.experiment import Parts\nPARTS = Parts(strategies={'x': print})")
    (folder / "own_package").mkdir()
    (folder / "own_package" / "parts.py").write_text("from own_b import PARTS as MORE")
    assert load_parts("own_b:PARTS").strategies == {"x": print}
    assert load_parts("own_package.parts:MORE") is load_parts("own_b:PARTS")
    assert load_parts(None) == Parts()


def test_a_config_imports_nothing(folder):
    (folder / "own_c.py").write_text("raise SystemExit('imported')")
    for name in ("own_c:PARTS", "own_c.PARTS", "own_c"):
        wanted = experiment(model=config.Named(name))
        assert refused(wanted, PARTS, folder / "run").startswith(f"model: got '{name}'")


# -- data -------------------------------------------------------------------------------------------------------------


def test_data_that_are_given_go_on_when_they_are_given_again(tmp_path):
    data = mine.stripes()
    wanted = experiment(data=config.Data("optdigits"))  # which is not looked at
    run_experiment(wanted, tmp_path, parts=PARTS, data=data, progress=Watch())
    before = files(tmp_path)
    assert config.load(tmp_path / "config.yaml").data.name == "given"
    facts = directory.identity_of(tmp_path)["facts"]
    assert (facts["points"], facts["shape"], facts["classes"]) == (60, [32, 32, 3], list(data.class_names))
    run_experiment(wanted, tmp_path, parts=PARTS, data=mine.stripes(), progress=Watch())
    assert files(tmp_path) == before
    with pytest.raises(ConfigError, match=r"^data: this run was given its data set in Python; pass it as data= again$"):
        run_experiment(config.load(tmp_path / "config.yaml"), tmp_path, parts=PARTS, progress=Watch())
    other = data._replace(labels=(data.labels + 1) % 4)
    with pytest.raises(ConfigError, match=r"cannot change \(there != now\): data: [0-9a-f]{12} != [0-9a-f]{12}"):
        run_experiment(wanted, tmp_path, parts=PARTS, data=other, progress=Watch())
    page = report([tmp_path], load_data=False)
    assert "bagging" in page.read_text()


def test_what_a_config_does_to_its_pool_is_done_to_data_that_are_given(tmp_path):
    builder = config.Named("repeated", {"repeats": 2, "noise": 0.0})
    wanted = experiment(data=config.Data(pool=40, test=10, builders=(builder,), classes=("a", "b", "c", "d")))
    run_experiment(wanted, tmp_path, parts=PARTS, data=mine.stripes(), progress=Watch())
    facts = directory.identity_of(tmp_path)["facts"]
    assert (facts["points"], facts["distinct_points"], facts["test_points"]) == (80, 40, 10)
    assert facts["classes"] == ["a", "b", "c", "d"]


def test_a_data_set_by_name_has_its_options(tmp_path):
    wanted = experiment(data=config.Data("stripes", options={"points": 48}))
    assert load(wanted, parts=PARTS).num_points == 48
    (tmp_path / "own.yaml").write_text(config.dump(wanted))
    assert config.load(tmp_path / "own.yaml") == wanted
    changed = config.load(tmp_path / "own.yaml", ["--data.options.points", "52"])
    assert load(changed, parts=PARTS).num_points == 52
    assert config.differences(wanted, changed) == ["data.options.points: 48 != 52"]


# -- the same directory, another part ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A run of trees, whose config has a network too, and the folder of its module."""
    folder = tmp_path_factory.mktemp("begun")
    workdir, wanted = folder / "run", experiment(model=config.Named("net"))
    run_experiment(wanted, workdir, parts=module(folder).PARTS, progress=Watch())
    return folder, workdir, wanted


TANH = ("nnx.relu(SLOPE", "nnx.tanh(SLOPE")
CHANGES = {  # what is changed in the module, what is said of it, and what not
    "another network": ([TANH], ["model net: programs: "], ["model net: variables", "model net: outputs"]),
    "another size of it": (
        [("width=4", "width=5")],
        [
            "model net: programs: ", "model net: variables: ",
            "model net: outputs: float32[4] float32[256] != float32[4] float32[320]; ",
        ],
        ["model net: constants"],
    ),
    "an array that it closes over": ([("linspace(-0.1", "linspace(-0.2")], ["model net: constants: "], []),
    "a number that it closes over": ([("SLOPE = 1.5", "SLOPE = 1.6")], ["model net: programs: "], ["model net: const"]),
    "another fit": ([("leaf=2", "leaf=3")], ["posterior bagging: source: "], ["model net"]),
    "another strategy": ([("inputs))).mean(1)", "inputs))).max(1)")], ["strategy ratio: source: "], ["model net"]),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_another_part_in_the_same_directory_is_refused_with_what_differs(begun, tmp_path, name):
    _, workdir, wanted = begun
    changes, said, unsaid = CHANGES[name]
    before = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError) as caught:
        run_experiment(wanted, workdir, parts=module(tmp_path, *changes).PARTS, progress=Watch())
    message = str(caught.value)
    assert "holds another run (there != now): " in message
    assert message.endswith("go on all the same with --allow-mismatch of bdal run, which the report will say")
    assert all(each in message for each in said), message
    assert not any(each in message for each in unsaid), message
    assert {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()} == before


def test_another_option_in_the_same_directory_is_refused_with_what_differs(begun):
    folder, workdir, wanted = begun
    parts = module(folder).PARTS
    for changes, message in (
        ({"model": config.Named("net", {"width": 6})}, r"model\.width: absent != 6"),
        (
            {"comparisons": (replace(TREES, posterior=config.Named("bagging", {"leaf": 5})),)},
            r"comparisons\.0\.posterior\.leaf: absent != 5",
        ),
        (
            {"comparisons": (replace(TREES, strategies=(RANDOM, config.Named("ratio", {"power": 2}))),)},
            r"comparisons\.0\.strategies\.1\.power: absent != 2",
        ),
        ({"data": config.Data("stripes", options={"points": 56})}, r"data\.options\.points: absent != 56"),
    ):
        with pytest.raises(ConfigError, match=message):
            run_experiment(replace(wanted, **changes), workdir, parts=parts, progress=Watch())
    with pytest.raises(
        ConfigError, match=r"model: got 'net', expected one of cnn, mlp; one of your own comes by parts"
    ):
        run_experiment(wanted, workdir, progress=Watch())


def test_what_changes_nothing_goes_on(begun, tmp_path):
    folder, workdir, wanted = begun
    shutil.copytree(workdir, tmp_path / "run")
    same = module(tmp_path, ("SLOPE", "STEEPNESS"), ("return self.head(h), h", "return self.head(h), h  # as it was"))
    parts = module(folder).PARTS._replace(models=same.PARTS.models)  # other words for the same network
    run_experiment(wanted, tmp_path / "run", parts=parts, progress=Watch())
    assert files(tmp_path / "run") == files(workdir)


def test_another_part_goes_on_where_it_is_allowed_and_the_report_says_so(begun, tmp_path):
    folder, workdir, wanted = begun
    shutil.copytree(workdir, tmp_path / "run")
    changed = module(tmp_path, ("trees = []", "trees = []  # none"))
    parts = module(folder).PARTS._replace(posteriors=changed.PARTS.posteriors)
    with pytest.warns(UserWarning, match="goes on although it differs .*: posterior bagging: source: "):
        run_experiment(wanted, tmp_path / "run", parts=parts, progress=Watch(), allow_mismatch=True)
    run_experiment(wanted, tmp_path / "run", parts=parts, progress=Watch())
    with pytest.raises(ConfigError, match="posterior bagging: source: "):
        run_experiment(wanted, tmp_path / "run", parts=module(folder).PARTS, progress=Watch())
    page = report([tmp_path / "run"], load_data=False).with_name("report.md").read_text()
    assert "posterior bagging: source: " in page


def scaled(scale, leaf=2):
    def posterior(model, likelihood, how, *, members):
        return scale, leaf

    return posterior


@dataclass
class Called:
    """A factory that is an object."""

    scale: float

    def __call__(self, model, likelihood, how, *, members):
        return self.scale

    def method(self, model, likelihood, how, *, members):
        return self.scale


class Plain:
    def __init__(self, scale):
        self.scale = scale

    def __call__(self, model, likelihood, how, *, members):
        return self.scale


def three(a, b, c):
    return lambda model, likelihood, how, *, members: (a, b, c)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (scaled(0.1), scaled(0.2)),
        (scaled(1), scaled(True)),
        (scaled(np.arange(3.0)), scaled(np.arange(3.0) + 1)),
        (scaled(jnp.arange(3.0)), scaled(jnp.arange(3.0) + 1)),
        (scaled(np.zeros(3)), scaled(np.zeros(3, np.float32))),
        (scaled(jax.random.key(0)), scaled(jax.random.key(1))),
        (scaled({"a": [1, 2]}), scaled({"a": [1, 3]})),
        (scaled({1, 2}), scaled({1, 3})),
        (scaled("a"), scaled("b")),
        (scaled(scaled(1)), scaled(scaled(2))),
        (scaled(Called(1.0)), scaled(Called(2.0))),
        (three(1, 2, 1), three(1, 2, 2)),  # a number that was there already
        (functools.partial(scaled(1), leaf=1), functools.partial(scaled(1), leaf=2)),
        (functools.partial(scaled(1), 1), functools.partial(scaled(1), 2)),
        (Called(1.0), Called(2.0)),
        (Plain(1.0), Plain(2.0)),
        (Called(1.0).method, Called(2.0).method),
        (jax.jit(scaled(1)), jax.jit(scaled(2))),
    ],
)
def test_what_a_factory_closes_over_is_a_part_of_it(one, other):
    first = identity.of_factory(one, {})
    assert first == identity.of_factory(one, {})
    assert [name for name, value in identity.of_factory(other, {}).items() if value != first[name]] == ["constants"]
    assert len(first["source"]) == 64
    assert first["module"] == __name__
    json.dumps(first)


def test_a_factory_without_a_file_is_known_by_its_code():
    def typed(text):
        names = {}
        exec(compile(text, "<cell>", "exec"), names)  # noqa: S102
        return identity.of_factory(names["factory"], {})

    text = "def factory(x):\n    def inner(y):\n        return y + 1\n    return inner"
    assert typed(text) == typed(f"# a cell\n\n{text}")
    assert typed(text)["source"] != typed(text.replace("+ 1", "+ 2"))["source"]


def test_the_network_of_a_part_is_known_by_what_it_is(tmp_path):
    def found(model):
        return prepare(experiment(model=config.Named("own")), parts=with_parts(models={"own": model})).parts[
            "model own"
        ]

    def from_array(array):
        return lambda shape, outputs: bdal.model_from_functions(
            lambda key: jnp.ones((3072, outputs)), lambda params, key, x: (x * array).ravel() @ params
        )

    zeros, ones = found(from_array(np.zeros((32, 32, 3)))), found(from_array(np.ones((32, 32, 3))))
    assert [name for name in zeros if zeros[name] != ones[name]] == ["constants"]  # a large array is in no program
    assert found(from_array(np.ones((32, 32, 3)))) == ones
    assert ones["options"] == {}
    assert "source" not in ones


# -- from beginning to end --------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("model", "together"), [("net", None), ("dense", True)])
def test_a_run_of_everything_from_python(tmp_path, model, together):
    """A network of one's own on arrays, under bdal's posterior, one in JAX, and one in scikit-learn."""
    parts = with_parts(models={"dense": lambda shape, outputs: bdal.models.mlp(shape, outputs, hidden=[8])})
    wanted = experiment(
        MASKS, HEADS, replace(TREES, strategies=(RANDOM, RATIO, config.Named("batchbald"))),
        seeds=2, model=config.Named(model), together=together, parameters="last",
        evaluation=config.Evaluation(members=3, points=30),
    )  # fmt: skip
    data, watch = mine.stripes(), Watch()
    with pytest.warns(UserWarning, match="parameters: those of a Trees are not kept: it is no tree of arrays"):
        run_experiment(wanted, tmp_path, parts=parts, data=data, progress=watch)
    assert [
        stage for stage, count in watch.compiled if count and "round 0" not in stage and "bagging" not in stage
    ] == []
    before = files(tmp_path)
    assert len(before) == 2 * 7
    for name in before:
        ledger = durable.read(tmp_path / name)
        assert [event["labels"] for event in of("evaluated", ledger)] == [8, 13, 18]
        assert ledger[-1] == {"event": "finished", "round": 2, "reason": "budget"}
        for line in durable.read(tmp_path / name.replace("ledger", "metrics")):
            told = {"most_predicted"} if "bagging" in name else {
                "steps", "best_step", "validation_nll", "diverged", "most_predicted"}  # fmt: skip
            assert line["fit"].keys() == told
            assert line["seeds"] == (2 if together and "bagging" not in name else 1)
    starts = {name: durable.read(tmp_path / name)[:2] for name in before}
    for seed in range(2):
        of_seed = [(one["indices"], two["indices"]) for name, (one, two) in starts.items() if f"seed_{seed}" in name]
        assert all(start == of_seed[0] for start in of_seed)  # paired over posteriors of any kind
    again = Watch()
    run_experiment(wanted, tmp_path, parts=parts, data=data, progress=again)
    assert again.lines == [f"finished already: nothing is left to run in {tmp_path}"]
    assert files(tmp_path) == before
    page = report([tmp_path], load_data=False).with_name("report.md").read_text()
    assert all(name in page for name in ("bagging", "noisy_head-scale-0.2", "ratio", model))

    inputs, labels = jnp.asarray(data.test_inputs), data.test_labels
    for posterior in ("mc_dropout", "noisy_head-scale-0.2"):
        committee = load_committee(tmp_path, posterior, "ratio", 1, parts=parts, data=data)
        probs = np.exp(np.asarray(committee.log_probs(inputs), float)).mean(1)
        final = events(tmp_path, f"{posterior}/ratio", 1)[-2]["final"]
        assert np.mean(probs.argmax(-1) == labels) == pytest.approx(final["accuracy"])
        assert -np.log(probs[np.arange(len(labels)), labels]).mean() == pytest.approx(final["nll"], rel=1e-4)
        assert (final["members"], final["points"]) == (4, 40)
    with pytest.raises(ConfigError, match=r"posterior: expected a fit of bdal, or a bdal\.training\.CompiledFit"):
        load_committee(tmp_path, "bagging", "ratio", 1, parts=parts, data=data)
    with pytest.raises(ConfigError, match=r"this run was given its data set in Python; pass it as data= again"):
        load_committee(tmp_path, "mc_dropout", "ratio", 1, parts=parts)
    with pytest.raises(ConfigError, match=r"one of your own comes by parts"):
        load_committee(tmp_path, "mc_dropout", "ratio", 1, data=data)
    other = with_parts(models={model: lambda shape, outputs: bdal.models.mlp(shape, outputs, hidden=[9])})
    with pytest.raises(ConfigError, match=rf"was made with other parts \(there != now\): .*model {model}: programs: "):
        load_committee(tmp_path, "mc_dropout", "ratio", 1, parts=other, data=data)


@pytest.mark.slow
def test_features_that_members_share_are_looked_at_by_strategies(tmp_path):
    strategies = tuple(map(config.Named, ("badge", "k_center", "expected_model_change")))
    wanted = experiment(config.Comparison("noisy_head", 4, strategies), model=config.Named("net"))
    run_experiment(wanted, tmp_path, parts=PARTS, progress=Watch())
    assert len([name for name, ledger in files(tmp_path).items() if b'"finished"' in ledger]) == 3


YAML = """\
name: mine
seeds: 2
data: {name: stripes}
model: {name: net, width: 4}
training: {steps: 12, batch_size: 8, min_steps: 4, eval_every: 4}
labels: {budget: 24, initial: 8, validation: 0.25}
query: {size: 5, chunk_size: 32}
comparisons:
- {posterior: {name: noisy_head, scale: 0.2}, members: 4, strategies: [random, {name: ratio, power: 2}]}
- {posterior: bagging, members: 4, strategies: [random, ratio]}
"""


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    """A folder with `mine.py` and `mine.yaml`, and the command there, which gives what it prints."""
    folder = tmp_path_factory.mktemp("shell")
    (folder / "mine.py").write_text(SOURCE)
    (folder / "mine.yaml").write_text(YAML)
    environment = {**os.environ, "BDAL_CACHE_DIR": str(folder / "cache"), "JAX_PLATFORMS": "cpu"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(bdal.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])

    def run(*arguments, code=0, **more):
        done = subprocess.run(
            [sys.executable, "-m", "bdal", *arguments], cwd=folder, env=environment | more, capture_output=True,
            text=True, timeout=500, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        return done.stdout if code == 0 else done.stderr

    return folder, run


@pytest.mark.slow
def test_a_run_from_the_shell_and_in_another_process_to_the_same_bytes(shell, tmp_path):
    folder, run = shell
    with_parts = ["--parts", "mine:PARTS"]
    assert "noisy_head-scale-0.2/ratio-power-2" in run("run", "mine.yaml", *with_parts)
    whole = files(folder / "runs" / "mine")
    assert len(whole) == 8
    assert "finished already" in run("run", "mine.yaml", *with_parts)
    assert files(folder / "runs" / "mine") == whole
    run("run", "mine.yaml", *with_parts, "--workdir", "killed", BDAL_FAILPOINT="after_queried:5", code=-9)
    assert files(folder / "killed") != whole
    run("run", "mine.yaml", *with_parts, "--workdir", "killed")  # what it was is the same in every process
    assert files(folder / "killed") == whole
    run_experiment(config.load(folder / "mine.yaml"), tmp_path / "python", parts=module(folder).PARTS, progress=Watch())
    assert files(tmp_path / "python") == whole
    parts = directory.identity_of(folder / "runs" / "mine")["parts"]
    assert parts.keys() == {
        "model net-width-4", "posterior noisy_head-scale-0.2", "posterior bagging", "strategy ratio",
        "strategy ratio-power-2", "data stripes",
    }  # fmt: skip
    assert parts["strategy ratio-power-2"]["options"] == {"power": 2}
    assert parts == directory.identity_of(tmp_path / "python")["parts"]

    assert "one of your own comes by parts (--parts)" in run("run", "mine.yaml", code=2)
    (folder / "other.py").write_text(SOURCE.replace("SLOPE = 1.5", "SLOPE = 1.4"))
    assert "model net-width-4: programs: " in run("run", "mine.yaml", "--parts", "other:PARTS", code=2)
    page = run("report", "runs/mine")  # needs no parts
    assert "report.html" in page
    assert "noisy_head-scale-0.2" in (folder / "runs" / "mine" / "report" / "report.md").read_text()
    looked = run("doctor", "mine.yaml", *with_parts)
    assert "data  60 pool points of shape 32x32x3, 4 classes: first, second, third, fourth" in looked


@pytest.mark.slow
def test_a_sweep_of_parts(shell):
    folder, run = shell
    grid = ["--grid", "posterior=bagging", "--grid", "strategy=random,{name: ratio, power: 3}", "--seeds", "0:1"]
    printed = run("sweep", "mine.yaml", *grid, "--parts", "mine:PARTS", "--workers", "2")
    commands = (folder / "sweeps" / "mine" / "commands.txt").read_text().splitlines()
    assert len(commands) == 2
    assert all(command.endswith(" --parts mine:PARTS") for command in commands)
    assert printed.count("finished") == 2
    ledgers = list((folder / "sweeps" / "mine" / "runs").glob("*/bagging/*/seed_0/ledger.jsonl"))
    assert {ledger.parts[-3] for ledger in ledgers} == {"random", "ratio-power-3"}
    run("report", *[str(path) for path in (folder / "sweeps" / "mine" / "runs").iterdir()], "--out", "page")
    assert (folder / "page" / "report.html").exists()
    assert "got 'ratoi' (did you mean 'ratio'?)" in run(
        "sweep", "mine.yaml", "--grid", "strategy=ratoi", "--parts", "mine:PARTS", "--root", "x", code=2
    )
    assert not (folder / "x").exists()


PEOPLE = [
    "--labels.oracle=people", "--seeds=1", "--model=null", "--labels.budget=12", "--labels.initial=4",
    "--data.options.labelled=false", "--comparisons=[{posterior: bagging, members: 4, strategies: [ratio]}]",
]  # fmt: skip


@pytest.mark.slow
def test_people_answer(shell):
    folder, run = shell
    run("run", "mine.yaml", *PEOPLE, "--parts", "mine:PARTS", "--workdir", "people")
    truth = [mine.stripes().class_names[label] for label in mine.stripes().labels]
    assert "one of your own comes by parts" in run("ask", "people", code=2)
    asked = run("ask", "people", "--parts", "mine:PARTS")
    assert asked.startswith("7 labels wanted to start with (3 for validation, 4 for training)")
    for number in range(2):
        lines = (folder / "people" / "query" / "query.csv").read_text().splitlines()
        points = [int(line.split(",")[0]) for line in lines[1:]]
        answers = "".join(f"{point},{truth[point]}\n" for point in points)
        (folder / f"answers{number}.csv").write_text(f"pool_index,label\n{answers}")
        told = run("tell", "people", f"answers{number}.csv", "--parts", "mine:PARTS")
    assert "finished (budget)" in told
    ledger = events(folder / "people", "bagging/ratio", 0)
    assert [event["labels"] for event in of("evaluated", ledger)] == [4, 9]
    (folder / "other_fit.py").write_text(SOURCE.replace("leaf=2", "leaf=4"))
    assert "posterior bagging: source: " in run("ask", "people", "--parts", "other_fit:PARTS", code=2)
    assert labelling.wanted(folder / "people") == ""
