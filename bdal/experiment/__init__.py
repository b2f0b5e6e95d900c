"""Experiments from a config: the runner, its compiled programs, and sweeps of many runs."""
