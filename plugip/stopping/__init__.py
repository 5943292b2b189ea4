"""Stopping rules: which iterate to answer with, decided per image and without the true image."""

from plugip.stopping.by_noise import ByNoise as ByNoise
from plugip.stopping.residual import BestLoss as BestLoss
from plugip.stopping.residual import Budget as Budget
from plugip.stopping.residual import Discrepancy as Discrepancy
from plugip.stopping.rule import Rule as Rule
from plugip.stopping.rule import Verdict as Verdict
from plugip.stopping.stopped import Stopped as Stopped
from plugip.stopping.variance import ESEMV as ESEMV
from plugip.stopping.variance import ESWMV as ESWMV
