"""Experiments from a config, or from Python with parts of one's own: the runner, its compiled programs, and sweeps."""

from bdal.config import Experiment
from bdal.config import load as load_config
from bdal.config.parts import Parts, load_parts
from bdal.experiment.run import run_experiment
from bdal.experiment.saved import load_committee

__all__ = ["Experiment", "Parts", "load_committee", "load_config", "load_parts", "run_experiment"]
