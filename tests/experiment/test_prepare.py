"""What does not fit is refused, in one line, before a directory is made."""

import pytest

from bdal import config
from bdal.errors import ConfigError
from bdal.experiment import run_experiment
from bdal.experiment.prepare import prepare

SMALL = """\
name: small
data: {name: optdigits, pool: 300}
comparisons:
- posterior: mc_dropout
  members: 20
  strategies: [random, margin, {name: power_bald, beta: 4}]
"""
OWN = "; one of your own comes by parts (--parts)"


@pytest.fixture
def written(tmp_path):
    def write(text):
        (tmp_path / "small.yaml").write_text(text)
        return config.load(tmp_path / "small.yaml")

    return write


def error_of(experiment, workdir):
    """It is that of a run too."""
    with pytest.raises(ConfigError) as caught:
        prepare(experiment)
    with pytest.raises(ConfigError) as again:
        run_experiment(experiment, workdir)
    assert str(again.value) == str(caught.value)
    assert "\n" not in str(caught.value)
    assert not workdir.exists()
    return str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("model: mlpp", f"model: got 'mlpp' (did you mean 'mlp'?), expected one of cnn, mlp{OWN}"),
        ("model: {name: resnet}", f"model: got 'resnet', expected one of cnn, mlp{OWN}"),
        ("model: null", "model: expected a network for mc_dropout, found null"),
        ("model: cnn", "model.name: cnn expects images of shape (28, 28, 1), found (8, 8, 1)"),
        ("model: {hiden: [8]}", "model: model mlp: expected options hidden, dropout, got 'hiden'"),
        ("model: {name: cnn, hidden: [128]}", "model: model cnn: expected options dropout, got 'hidden'"),
        ("model: {hidden: 128}", "model.hidden: expected a list of widths, one a layer, each at least 1, got 128"),
        ("model: {hidden: '128'}", "model.hidden: expected a list of widths, one a layer, each at least 1, got '128'"),
        ("model: {hidden: true}", "model.hidden: expected a list of widths, one a layer, each at least 1, got True"),
        ("model: {hidden: []}", "model.hidden: expected a list of widths, one a layer, each at least 1, got []"),
        *(
            (
                f"model: {{hidden: [128, {width}]}}",
                f"model.hidden: expected a list of widths, one a layer, each at least 1, got [128, {found}]",
            )
            for width, found in (("x", "'x'"), ("0", "0"), ("1.5", "1.5"), ("true", "True"))
        ),
        ("model: {dropout: 1.0}", "model.dropout: expected at least 0 and below 1, got 1.0"),
        ("model: {dropout: true}", "model: model mlp: expected a dropout that is finite and not negative, got True"),
        ("model: {dropout: x}", "model: model mlp: expected a dropout that is finite and not negative, got 'x'"),
        ("model: {dropout: 0}", "model.dropout: expected above 0, for mc_dropout, found 0"),
    ],
)
def test_a_model(written, tmp_path, line, message):
    assert error_of(written(SMALL + line), tmp_path / "run") == message


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "mc_dropout", "mc_dorpout",
            "comparisons.0.posterior: got 'mc_dorpout' (did you mean 'mc_dropout'?), expected one of deep_ensemble, "
            f"mc_dropout, snapshots{OWN}",
        ),
        (
            "mc_dropout", "{name: mc_dropout, masks: 3}",
            "comparisons.0.posterior: posterior mc_dropout: expected options validation_masks, got 'masks'",
        ),
        (
            "mc_dropout", "{name: mc_dropout, model: mlp}",
            "comparisons.0.posterior: posterior mc_dropout: expected options validation_masks, got 'model'",
        ),
        (
            "mc_dropout", "{name: deep_ensemble, one_at_a_time: 3}",
            "comparisons.0.posterior: posterior deep_ensemble: expected true or false for one_at_a_time, got 3",
        ),
        (
            "mc_dropout", "{name: deep_ensemble, masks: 1.5}",
            "comparisons.0.posterior: posterior deep_ensemble: expected a masks of at least 1, an integer, got 1.5",
        ),
        ("margin", "margn", "comparisons.0.strategies.1: got 'margn' (did you mean 'margin'?), expected one of "),
        ("beta: 4", "bata: 4", "comparisons.0.strategies.2: strategy power_bald: expected options "),
        ("beta: 4", "beta: [4]", "comparisons.0.strategies.2: strategy power_bald: expected a beta that is finite"),
    ],
)  # fmt: skip
def test_a_comparison(written, tmp_path, old, new, message):
    found = error_of(written(SMALL.replace(old, new)), tmp_path / "run")
    assert found.startswith(message)
    assert found.endswith(OWN) == ("expected one of" in message)


def test_more_snapshots_than_steps(written, tmp_path):
    text = SMALL.replace("mc_dropout", "snapshots").replace("members: 20", "members: 2000")
    assert error_of(written(text), tmp_path / "run") == (
        "comparisons.0.posterior: members: expected 1 to 600, the steps of training, got 2000"
    )


def test_what_fits(written):
    prepared = prepare(written(SMALL + "model: {hidden: [16], dropout: 0.1}"))
    assert len(prepared.fits) == len(prepared.strategies) == 1
    assert len(prepared.strategies[0]) == 3
    assert prepared.parts == {}
    assert prepared.model is not None
