"""Measure, solve, score, record: the only room that sees the true image."""

from plugip.experiment.pictures import naive as naive
from plugip.experiment.run import Experiment as Experiment
from plugip.experiment.summary import Summary as Summary
from plugip.experiment.team import choose_device as choose_device
