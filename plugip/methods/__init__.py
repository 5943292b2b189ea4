"""Methods that ship with plugip: plug-in (DMPlug) and interleaving (DPS)."""

from plugip.methods.dmplug import DMPlug as DMPlug
from plugip.methods.dps import DPS as DPS
