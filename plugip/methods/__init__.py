"""Methods that ship with plugip: plug-in (DMPlug) and interleaving (DPS)."""

from plugip.methods.blind_dip import BlindDIP as BlindDIP
from plugip.methods.constrained import ConstrainedMisfit as ConstrainedMisfit
from plugip.methods.constrained import ConstrainedSeed as ConstrainedSeed
from plugip.methods.dflow import DFlow as DFlow
from plugip.methods.dip import DIP as DIP
from plugip.methods.dmilo import DMILO as DMILO
from plugip.methods.dmilo_pgd import DMILOPGD as DMILOPGD
from plugip.methods.dmplug import DMPlug as DMPlug
from plugip.methods.double_dip import DoubleDIP as DoubleDIP
from plugip.methods.dps import DPS as DPS
from plugip.methods.fmplug import FMPlug as FMPlug
from plugip.methods.ilo import ILO as ILO
from plugip.methods.multi_start import MultiStart as MultiStart
from plugip.methods.random_projector import RandomProjector as RandomProjector
from plugip.methods.self_deblur import SelfDeblur as SelfDeblur
