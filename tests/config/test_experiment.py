import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bdal import config
from bdal.config import (
    Comparison,
    Data,
    Evaluation,
    Experiment,
    Labels,
    Named,
    Query,
    Stopping,
    Training,
    digest,
    dump,
    load,
)
from bdal.config.strict import show
from bdal.errors import ConfigError

CONFIGS = Path(__file__).resolve().parents[2] / "configs"

SMALL = """\
name: small
comparisons:
- posterior: mc_dropout
  members: 20
  strategies: [random, margin, {name: power_bald, beta: 4}]
"""


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Writes a config where `small.yaml` is a relative path, so that messages can be compared whole."""
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> str:
        Path("small.yaml").write_text(text, encoding="utf-8")
        return "small.yaml"

    return write


def error_of(path, overrides=()) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_defaults_and_strategies(written):
    experiment = load(written(SMALL))
    (comparison,) = experiment.comparisons
    assert experiment.labels == Labels(150, 20, False, 0.2, "simulated", 1, "last")
    assert (experiment.parameters, experiment.stopping, experiment.seed_numbers) == ("none", Stopping(), range(5))
    assert (experiment.labels.validation_labels, experiment.labels.training_labels) == (30, 120)
    assert comparison.strategies == (Named("random"), Named("margin"), Named("power_bald", {"beta": 4}))
    assert [strategy.label for strategy in comparison.strategies] == ["random", "margin", "power_bald-beta-4"]
    assert [comparison.method(strategy) for strategy in comparison.strategies] == [
        "mc_dropout/random",
        "mc_dropout/margin",
        "mc_dropout/power_bald-beta-4",
    ]
    assert comparison.posterior == Named("mc_dropout")
    assert experiment == Experiment("small", (comparison,))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("trainng: {steps: 3}", "trainng: unknown field; did you mean 'training'?"),
        ("training: {stpes: 3}", "training.stpes: unknown field; did you mean 'steps'?"),
        ("training: {stpes: 3, batch: x}", "training.batch: unknown field; did you mean 'batch_size'? (and 1 more)"),
        (
            "query: {zzz: 1}",
            "query.zzz: unknown field; the fields are size, candidates, targets, chunk_size, on_nonfinite",
        ),
        ("model: 3", "model: expected a name, or a mapping such as {name: power_bald, beta: 8}, found 3"),
        ("seed: 1.7", "seed: expected a whole number, found 1.7"),
        ("seed: 1.0", "seed: expected a whole number, found 1.0"),
        ("seed: true", "seed: expected a whole number, found true"),
        ("seed: three", "seed: expected a whole number, found 'three'"),
        ("seed:", "seed: expected a whole number, found nothing"),
        ("seed: -1", "seed: expected a number from 0 to 2147483647, found -1"),
        ("seed: 2147483648", "seed: expected a number from 0 to 2147483647, found 2147483648"),
        ("seed: [1, 2]", "seed: expected a whole number, found [1, 2]"),
        ("seeds: 0", "seeds: expected at least 1, found 0"),
        ("together: 1", "together: expected true or false, found 1"),
        ("data: {name: 7}", "data.name: expected text, found 7"),
        ("data: {pool: 0}", "data.pool: expected at least 1, found 0"),
        (
            "data: {pool: 49}",
            "data.pool: expected at least 50 (labels.initial 20 + 30 for validation), found 49",
        ),
        (
            "model: {name: [mlp]}",
            "model: expected a name, or a mapping such as {name: power_bald, beta: 8}, found a mapping "
            "{'name': ['mlp']}",
        ),
        (
            "model: {dropout: .nan}",
            "model: expected a finite number, text, true or false for option 'dropout', found nan",
        ),
        (
            "model: {hidden: [8, [8]]}",
            "model: expected a finite number, text, true or false for option 'hidden', found [8]",
        ),
        (
            "model: {hidden: null}",
            "model: expected a finite number, text, true or false for option 'hidden', found nothing",
        ),
        ("training: {learning_rate: fast}", "training.learning_rate: expected a finite number, found 'fast'"),
        ("training: {learning_rate: true}", "training.learning_rate: expected a finite number, found true"),
        ("training: {learning_rate: .nan}", "training.learning_rate: expected a finite number, found nan"),
        ("training: {learning_rate: .inf}", "training.learning_rate: expected a finite number, found inf"),
        ("training: {learning_rate: 1e999}", "training.learning_rate: expected a finite number, found inf"),
        ("training: {learning_rate: 0}", "training.learning_rate: expected a number above 0, got 0.0"),
        ("training: {weight_decay: -0.1}", "training.weight_decay: expected at least 0, got -0.1"),
        ("training: {steps: 0}", "training.steps: expected at least 1, got 0"),
        ("training: {min_steps: -1}", "training.min_steps: expected at least 0, got -1"),
        ("labels: {balanced: 1}", "labels.balanced: expected true or false, found 1"),
        ("labels: {validation: 1}", "labels.validation: expected at least 0 and below 1, found 1.0"),
        ("labels: {initial: -1}", "labels.initial: expected at least 0, found -1"),
        (
            "labels: {budget: 30, initial: 28}",
            "labels.budget: expected at least 34 (labels.initial 28 + 6 for validation), found 30",
        ),
        ("query: {size: 0}", "query.size: expected at least 1, found 0"),
        ("query: {candidates: 9}", "query.candidates: expected at least query.size (10), found 9"),
        ("evaluation: {members: 0}", "evaluation.members: expected at least 1, found 0"),
        ("name: again", "line 6: field 'name' is given twice"),
        ("labels: {budget: 100, budget: 150}", "line 6: field 'budget' is given twice"),
        ("1: 2", "expected field names from name, comparisons, seed, seeds, first_seed, together, parameters, data, "
         "model, training, labels, query, evaluation, stopping, found 1"),
        ("data: {classes: [cat, cat]}", "data.classes: expected at least two names, each once, found ['cat', 'cat']"),
        ("data: {classes: [cat]}", "data.classes: expected at least two names, each once, found ['cat']"),
        ("data: {classes: [cat, ' ']}", "data.classes: expected at least two names, each once, found ['cat', ' ']"),
        ("data: {classes: [0, 1]}", "data.classes.0: expected text, found 0 (and 1 more)"),
        ("data: {size: [28]}", "data.size: expected a height and a width, such as [28, 28], found [28]"),
        ("data: {size: [28, 0]}", "data.size: expected a height and a width, such as [28, 28], found [28, 0]"),
        (
            "data: {builders: [{repeats: 3}]}",
            "data.builders.0: expected a name, or a mapping such as {name: power_bald, beta: 8}, found "
            "a mapping {'repeats': 3}",
        ),
        (
            "data: {builders: [repeated, {name: repeated, noise: .nan}]}",
            "data.builders.1: expected a finite number, text, true or false for option 'noise', found nan",
        ),
        (
            "data: {builders: [{name: imbalanced, classes: [1, {a: 2}]}]}",
            "data.builders.0: expected a finite number, text, true or false for option 'classes', "
            "found a mapping {'a': 2}",
        ),
        ("data: {builders: repeated}", "data.builders: expected a list, found 'repeated'"),
        (
            "data: {builders: [{name: repeated, repeat: 3}]}",
            "data.builders.0: pool repeated: expected options repeats, noise, got 'repeat'",
        ),
        ('labels: {instruction: " "}', "labels.instruction: expected one line of 1 to 200 characters, found ' '"),
        (
            'labels: {instruction: "a\\nb"}',
            r"labels.instruction: expected one line of 1 to 200 characters, found 'a\nb'",
        ),
        ("labels: {abstain_cost: 2}", "labels.abstain_cost: expected 0 or 1, found 2"),
        ("labels: {abstain_cost: 0.5}", "labels.abstain_cost: expected a whole number, found 0.5"),
        ("labels: {contradictions: first}", "labels.contradictions: expected one of last, majority, found 'first'"),
        ("labels: {oracle: person}", "labels.oracle: expected one of simulated, people, found 'person'"),
        (
            "labels: {oracle: people}",
            "labels.oracle: expected seeds: 1 and one strategy where people answer, found '5 seeds and 3 strategies'",
        ),
        ("parameters: all", "parameters: expected one of none, last, found 'all'"),
        ("query: {on_nonfinite: ignore}", "query.on_nonfinite: expected one of raise, exclude, found 'ignore'"),
        ("first_seed: -1", "first_seed: expected a number from 0 to 2147483647, found -1"),
        ("stopping: {kappa: 0}", "stopping.kappa: expected above 0 and at most 1, found 0.0"),
        ("stopping: {kappa: 1.1}", "stopping.kappa: expected above 0 and at most 1, found 1.1"),
        ("stopping: {window: 0}", "stopping.window: expected at least 1, found 0"),
        ("stopping: {points: 0}", "stopping.points: expected at least 1, found 0"),
        ("stopping: {no_gain: -0.1}", "stopping.no_gain: expected at least 0, found -0.1"),
        ("stopping: {ceiling: 1}", "stopping.ceiling: expected true or false, found 1"),
        ("seed: [1", "line 6, column 9: not valid YAML: expected ',' or ']', but got '<stream end>'"),
        ("seed: 2024-13-45", "not valid YAML: month must be in 1..12"),
        (
            "seed: !!python/object/apply:os.system ['touch hacked']",
            "line 6, column 7: not valid YAML: could not determine a constructor for the tag "
            "'tag:yaml.org,2002:python/object/apply:os.system'",
        ),
    ],
)  # fmt: skip
def test_bad_line(written, line, message):
    assert error_of(written(SMALL + line)) == f"small.yaml: {message}"
    assert not Path("hacked").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: small", "", "name: missing; it has no default"),
        ("name: small", "name: ../up", "name: expected a name of letters, digits, '.', '_' and '-', found '../up'"),
        ("name: small", "name: no", "name: expected text, found false"),
        ("mc_dropout", "a/../b", "comparisons.0.posterior: expected a posterior's name, found 'a/../b'"),
        (
            "mc_dropout", "3",
            "comparisons.0.posterior: expected a name, or a mapping such as {name: power_bald, beta: 8}, found 3",
        ),
        (
            "mc_dropout", "{name: mine, ../up: 1}",
            "comparisons.0.posterior: expected options that are names, found '../up'",
        ),
        ("20", "0", "comparisons.0.members: expected at least 1, found 0"),
        ("20", "20.0", "comparisons.0.members: expected a whole number, found 20.0"),
        ("members: 20", "", "comparisons.0.members: missing; it has no default"),
        ("margin", "random", "comparisons.0.strategies.1: expected every strategy once under a posterior, found"),
        ("margin", "a/../b", "comparisons.0.strategies.1: expected a strategy's name, found 'a/../b'"),
        (
            "margin", "{beta: 4}",
            "comparisons.0.strategies.1: expected a name, or a mapping such as {name: power_bald, beta: 8}, "
            "found a mapping {'beta': 4}",
        ),
        (
            "4", "[[4]]",
            "comparisons.0.strategies.2: expected a finite number, text, true or false for option 'beta', found [4]",
        ),
        (
            "4", ".nan",
            "comparisons.0.strategies.2: expected a finite number, text, true or false for option 'beta', found nan",
        ),
        (SMALL, "- 1", "expected a mapping of fields such as 'name: ...', found [1]"),
        (SMALL, "", "expected a mapping of fields such as 'name: ...', found nothing"),
        (SMALL, "name: x\ncomparisons: []", "comparisons: expected at least one comparison, found []"),
        (SMALL, "[" * 5000, "not valid YAML: maximum recursion depth exceeded"),
    ],
)  # fmt: skip
def test_bad_file(written, old, new, message):
    assert error_of(written(SMALL.replace(old, new, 1))).startswith(f"small.yaml: {message}")


def test_files_that_are_no_configs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("bytes.yaml").write_bytes(b"name: \xff")
    assert error_of("bytes.yaml") == "bytes.yaml: expected UTF-8 text, found byte 0xff"
    assert error_of("absent.yaml") == "absent.yaml: cannot be read as a config: No such file or directory"
    assert error_of(".") == ".: cannot be read as a config: Is a directory"


def test_hostile_aliases_give_a_short_message(written):
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    )
    assert len(error_of(written(bomb + SMALL.replace("20", "*i")))) < 200
    assert len(error_of(written(SMALL + "seed: &loop [*loop]"))) < 200


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "0.001", "1.e-3", "'1e-3'", "+1e-3"])
def test_every_spelling_of_a_float(written, text):
    assert load(written(SMALL + f"training: {{learning_rate: {text}}}")).training.learning_rate == 1e-3


def test_whole_numbers_and_exponents_in_options(written):
    (comparison,) = load(written(SMALL.replace("4", "2e-1"))).comparisons
    assert comparison.strategies[2].options == {"beta": 0.2}
    assert comparison.strategies[2].label == "power_bald-beta-0.2"


@pytest.mark.parametrize(
    ("strategy", "label"),
    [
        (Named("bald"), "bald"),
        (Named("power", {"score": "bald", "beta": 8.0}), "power-beta-8-score-bald"),
        (Named("diverse", {"weight": -0.5}), "diverse-weight--0.5"),
        (Named("x", {"path": "../a b\\c:\n"}), "x-path-.._a_b_c__"),
        (Named("x", {"beta": 1e-05}), "x-beta-1e-05"),
    ],
)
def test_labels_are_path_safe(strategy, label):
    assert strategy.label == label
    assert "/" not in label
    assert Comparison(strategy, 20, (Named("bald"),)).method(Named("bald")) == f"{label}/bald"


def test_overrides(written):
    experiment = load(
        written(SMALL),
        ["--training.learning-rate", "1e-4", "--labels.balanced=true", "--seed", "3", "--model.hidden", "[32]",
         "--comparisons.0.members", "8", "--comparisons.0.strategies.2.beta=2", "--together", "null",
         "--name=x"],
    )  # fmt: skip
    assert experiment == Experiment(
        name="x",
        seed=3,
        training=Training(learning_rate=1e-4),
        labels=Labels(balanced=True),
        model=Named("mlp", {"hidden": [32]}),
        comparisons=(
            Comparison("mc_dropout", 8, (Named("random"), Named("margin"), Named("power_bald", {"beta": 2}))),
        ),
    )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--training.stpes", "3"], "training.stpes: unknown field; did you mean 'steps'?"),
        (["--training.steps", "0"], "training.steps: expected at least 1, got 0"),
        (["--training.steps", "1.5"], "training.steps: expected a whole number, found 1.5"),
        (["--query", "3"], "query: expected a mapping with fields size, candidates, targets, chunk_size, "
         "on_nonfinite, found 3"),
        (["--seed"], "--seed: expected a value after it, found none"),
        (["--seed", "--seeds", "3"], "--seed: expected a value after it, found none"),
        (["seed", "3"], "expected an override such as --training.steps 300, found 'seed'"),
        (["--comparisons.1.members", "3"], "--comparisons.1.members: expected a number below 1, found '1'"),
        (["--comparisons.x.members", "3"], "--comparisons.x.members: expected a number below 1, found 'x'"),
        (["--name.first", "3"], "--name.first: name is 'small' and has no field 'first'"),
        (["--seed", "[1"], "--seed: line 1, column 3: not valid YAML: expected ',' or ']', but got '<stream end>'"),
        (["--seed", "-4"], "seed: expected a number from 0 to 2147483647, found -4"),
    ],
)  # fmt: skip
def test_bad_override(written, overrides, message):
    assert error_of(written(SMALL), overrides) == f"command line: {message}"


def full() -> Experiment:
    return Experiment(
        name="full-1.0",
        seed=7,
        seeds=3,
        together=False,
        model=Named("mlp", {"hidden": [7], "dropout": 0.1 + 0.2}),
        training=Training(steps=1, learning_rate=1e-07, weight_decay=1 / 3),
        labels=Labels(100, 0, True, 0.0),
        query=Query(5, 50, 64, on_nonfinite="exclude"),
        first_seed=4,
        parameters="last",
        data=Data(
            "optdigits",
            builders=(Named("repeated", {"repeats": 2}), Named("imbalanced", {"classes": [3, 1], "ratio": 0.1})),
            classes=("one", "two"),
            size=(8, 9),
        ),
        evaluation=Evaluation(2, 30),
        stopping=Stopping(True, True, 0.9, 2, 50, 1e-3),
        comparisons=(
            Comparison("deep_ensemble", 5, (Named("power", {"beta": 1e-05, "score": "no", "k": 3}),)),
            Comparison("mc_dropout", 1, (Named("random"), Named("diverse", {"weight": 8.0}))),
        ),
    )


@pytest.mark.parametrize("name", ["full", "quickstart", "mnist", "fashion_mnist"])
def test_round_trip(written, name):
    experiment = full() if name == "full" else load(CONFIGS / f"{name}.yaml")
    again = load(written(dump(experiment)))
    assert again == experiment
    assert repr(again) == repr(experiment)  # 8 and 8.0 are equal, but not the same
    assert dump(again) == dump(experiment)
    assert digest(again) == digest(experiment)


def test_digest_sees_every_field_but_where_the_data_lies():
    one = full()
    moved = dataclasses.replace(one, data=dataclasses.replace(one.data, data_dir="/elsewhere"))
    assert digest(moved) == digest(one)
    assert config.differences(moved, one) == []
    changed = [
        dataclasses.replace(one, seed=8),
        dataclasses.replace(one, together=None),
        dataclasses.replace(one, labels=dataclasses.replace(one.labels, budget=101)),
        dataclasses.replace(one, labels=dataclasses.replace(one.labels, abstain_cost=0)),
        dataclasses.replace(one, labels=dataclasses.replace(one.labels, contradictions="majority")),
        dataclasses.replace(one, data=dataclasses.replace(one.data, builders=one.data.builders[:1])),
        dataclasses.replace(one, data=dataclasses.replace(one.data, classes=("two", "one"))),
        dataclasses.replace(one, stopping=dataclasses.replace(one.stopping, window=3)),
        dataclasses.replace(one, parameters="none"),
        dataclasses.replace(one, first_seed=5),
        dataclasses.replace(one, comparisons=one.comparisons[::-1]),
        dataclasses.replace(one, comparisons=one.comparisons[:1]),
    ]
    assert len({digest(one), *map(digest, changed)}) == 1 + len(changed)
    assert all(config.differences(one, other) for other in changed)
    assert config.differences(one, changed[2]) == ["labels.budget: 100 != 101"]


def test_digest_is_the_same_in_another_process():
    code = f"from bdal import config; print(config.digest(config.load({str(CONFIGS / 'quickstart.yaml')!r})))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert found == digest(load(CONFIGS / "quickstart.yaml"))


def test_python_made_experiments_are_checked_too():
    with pytest.raises(ConfigError, match=r"^query\.size: expected at least 1, found 0$"):
        Experiment("x", (Comparison("mc_dropout", 2, (Named("random"),)),), query=Query(size=0))


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configs(path):
    experiment = load(path)
    assert experiment.name == path.stem
    head = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    assert head[0].startswith(f"# COMMAND  bdal run configs/{path.name}")
    assert any(line.startswith("# TIME") for line in head)
    assert any(line.startswith("# EXPECT") for line in head)
    assert all(Named("random") in comparison.strategies for comparison in experiment.comparisons)


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ("", Named("mlp")),
        ("model: cnn", Named("cnn")),
        ("model: {name: cnn}", Named("cnn")),
        ("model: {hidden: [32]}", Named("mlp", {"hidden": [32]})),  # the name of the default may be left out
        ("model: {}", Named("mlp")),
        ("model: {name: mine, deep: true, kind: a, rate: 1e-3}",
         Named("mine", {"deep": True, "kind": "a", "rate": 1e-3})),
        ("model: null", None),
        ("model:", None),
    ],
)  # fmt: skip
def test_a_model_is_a_name_and_its_options(written, text, model):
    experiment = load(written(SMALL + text))
    assert experiment.model == model
    assert load(written(dump(experiment))) == experiment


def test_a_posterior_is_a_name_and_its_options(written):
    (comparison,) = load(written(SMALL.replace("mc_dropout", "{name: mc_dropout, validation_masks: 4}"))).comparisons
    assert comparison.posterior == Named("mc_dropout", {"validation_masks": 4})
    assert comparison.method(Named("bald")) == "mc_dropout-validation_masks-4/bald"


def test_one_posterior_with_other_options_is_another_method(written):
    random = (Named("random"),)
    one, other = Named("mc_dropout"), Named("mc_dropout", {"validation_masks": 4})
    assert Experiment("x", (Comparison(one, 2, random), Comparison(other, 2, random)))
    with pytest.raises(ConfigError, match=r"^comparisons\.1\.strategies\.0: expected every strategy once"):
        Experiment("x", (Comparison(one, 2, random), Comparison(one, 3, random)))


def test_a_part_with_options_differs_from_its_bare_name_in_the_options():
    def experiment(model, posterior="mc_dropout"):
        return Experiment("x", (Comparison(posterior, 2, (Named("random"),)),), model=model)

    mlp, small, cnn = Named("mlp"), Named("mlp", {"hidden": [8, 4]}), Named("cnn", {"dropout": 0.1})
    assert config.differences(experiment(mlp), experiment(small)) == [
        "model.hidden.0: absent != 8",
        "model.hidden.1: absent != 4",
    ]
    assert config.differences(experiment(cnn), experiment(mlp)) == [
        "model.name: cnn != mlp",
        "model.dropout: 0.1 != absent",
    ]
    assert config.differences(experiment(mlp), experiment(None)) == ["model: mlp != None"]
    masks = Named("mc_dropout", {"validation_masks": 3})
    assert config.differences(experiment(mlp), experiment(mlp, masks)) == [
        "comparisons.0.posterior.validation_masks: absent != 3"
    ]


def test_paper_protocol():
    experiment = load(CONFIGS / "mnist.yaml")
    labels = experiment.labels
    assert (labels.training_labels, labels.validation_labels, labels.initial, labels.balanced) == (200, 50, 20, True)
    assert (experiment.query.size, experiment.query.candidates, experiment.comparisons[0].members) == (10, 2000, 50)


def test_people_answer_for_one_seed_of_one_strategy():
    def people(seeds, comparisons, **labels):
        return Experiment("x", comparisons, seeds=seeds, labels=Labels(oracle="people", **labels))

    random, margin = Named("random"), Named("margin")
    one = (Comparison("mc_dropout", 2, (random,)),)
    assert people(1, one).seed_numbers == range(1)
    several = [
        (2, one),
        (1, (Comparison("mc_dropout", 2, (random, margin)),)),
        (1, (*one, Comparison("deep_ensemble", 2, (random,)))),
    ]
    for seeds, comparisons in several:
        with pytest.raises(
            ConfigError, match=r"^labels\.oracle: expected seeds: 1 and one strategy where people answer"
        ):
            people(seeds, comparisons)
    with pytest.raises(ConfigError, match=r"^labels\.balanced: expected false where people answer"):
        people(1, one, balanced=True)


def test_seeds_are_numbered_from_the_first():
    (comparison,) = (Comparison("mc_dropout", 2, (Named("random"),)),)
    assert list(Experiment("x", (comparison,), seeds=3, first_seed=7).seed_numbers) == [7, 8, 9]
    whole, part = Experiment("x", (comparison,)), Experiment("x", (comparison,), seeds=1, first_seed=2)
    assert config.differences(whole, part) == ["seeds: 5 != 1", "first_seed: 0 != 2"]


def test_a_folder_needs_no_slash_and_a_data_set_of_that_name_comes_first(written, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("photos", "mnist"):
        (tmp_path / name).mkdir()
    assert load(written(SMALL + "data: {name: photos}")).data.name == str(tmp_path / "photos")
    assert load(written(SMALL + "data: {name: mnist}")).data.name == "mnist"
    assert load(written(SMALL + "data: {name: nowhere}")).data.name == "nowhere"


def test_data_that_was_moved(written, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, moved in (
        ("optdigits", Data("optdigits", str(tmp_path / "a #2"))),
        ("/x/a.npz", Data(str(tmp_path / "a #2"))),
    ):
        experiment = load(written(SMALL + f"data: {{name: {name}}}"))
        assert config.moved(experiment, None) == experiment
        assert config.moved(experiment, "a #2").data == moved


def test_paths_of_data_are_the_same_from_every_folder(written, tmp_path, monkeypatch):
    path = Path(written(SMALL + "data: {name: ./digits.npz, data_dir: ~/data}")).resolve()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "below").mkdir()
    experiment = load(path)
    assert (experiment.data.name, experiment.data.data_dir) == (
        str(tmp_path / "digits.npz"),
        str(tmp_path / "home" / "data"),
    )
    assert load(path, ["--data.name", "photos/", "--data.data-dir=there"]).data == Data(
        str(tmp_path / "photos"), str(tmp_path / "there")
    )
    assert load(path, ["--data.name", "optdigits", "--data.data-dir", "null"]).data == Data("optdigits", None)
    path.write_text(dump(experiment))
    monkeypatch.chdir(tmp_path / "below")
    assert load(path) == experiment


# -- what YAML 1.1 reads otherwise, what arrays cannot count, what is said twice ---------------------------------------


@pytest.mark.parametrize(
    ("number", "base"),
    [("010", 8), ("-0777", 8), ("0_1", 8), ("1:30", 60), ("190:20:30", 60), ("1:30.5", 60), ("+1:00", 60)],
)
def test_numbers_that_yaml_1_1_reads_in_another_base_are_refused(written, number, base):
    says = f"not valid YAML: {number} would be a number in base {base}; write it in base 10, or in quotes if it is text"
    line = SMALL.count("\n") + 1
    assert error_of(written(SMALL + f"labels: {{budget: {number}}}")) == f"small.yaml: line {line}, column 18: {says}"
    found = error_of(written(SMALL), ["--labels.budget", number])
    assert found.startswith("command line: --labels.budget: ")
    assert found.endswith(says)


def test_numbers_that_every_yaml_reads_alike_are_taken(written):
    for text, value in (("0", 0), ("100", 100), ("0x10", 16), ("1_000", 1000)):
        assert load(written(SMALL), ["--seed", text]).seed == value
    assert load(written(SMALL), ["--model.dropout", "0.10"]).model == Named("mlp", {"dropout": 0.1})
    assert load(written(SMALL), ["--data.classes", "['010', '1:30']"]).data.classes == ("010", "1:30")


@pytest.mark.parametrize(
    "field",
    ["query.size", "query.chunk_size", "training.steps", "labels.budget", "seeds", "evaluation.points",
     "comparisons.0.members", "data.pool", "stopping.window"],
)  # fmt: skip
@pytest.mark.parametrize("number", [2**31, 3_000_000_000, 10**12, 10**30])
def test_a_number_that_no_array_can_count_is_refused(written, field, number):
    found = error_of(written(SMALL), [f"--{field}", str(number)])
    assert (
        found
        == f"command line: {field}: expected a number of at most 2147483647, as arrays count, found {show(number)}"
    )


def test_one_made_in_python_is_refused_too():
    with pytest.raises(ConfigError, match=r"query\.size: expected a number of at most 2147483647"):
        Experiment("x", (Comparison("mc_dropout", 2, (Named("random"),)),), query=Query(size=2**40))


@pytest.mark.parametrize(
    "twice",
    [["--seeds", "3", "--seeds", "4"], ["--seeds=3", "--seeds=3"], ["--data.data-dir", "a", "--data.data_dir", "b"]],
)
def test_a_field_that_is_given_twice_is_refused(written, twice):
    found = error_of(written(SMALL), twice)
    assert re.fullmatch(r"command line: (--\S+): expected once, found (--\S+) before it; keep one of them", found)
    assert (
        error_of(written(SMALL), ["--seeds", "0", "--seed", "1"]) == "command line: seeds: expected at least 1, found 0"
    )


@pytest.mark.parametrize("line", ["data: {name: ~nosuchuser/x.npz}", "data: {data_dir: ~nosuchuser/there}"])
def test_the_home_of_nobody(written, line):
    assert re.fullmatch(
        r"~nosuchuser/\S+: expected a path, found ~ for a home directory that is not known \(no such user, or HOME is "
        r"not set\); write the path in full",
        error_of(written(SMALL + line)),
    )
