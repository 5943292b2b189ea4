"""Methods that ship with plugip: plug-in (DMPlug) and interleaving (DPS)."""

from plugip.methods.dflow import DFlow as DFlow
from plugip.methods.dmplug import DMPlug as DMPlug
from plugip.methods.dps import DPS as DPS
from plugip.methods.fmplug import FMPlug as FMPlug
