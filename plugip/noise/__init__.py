"""Measurement noise: how y departs from A(x), and how well a candidate explains y."""

from plugip.noise.additive import LaplaceNoise as LaplaceNoise
from plugip.noise.additive import UniformNoise as UniformNoise
from plugip.noise.base import Moments as Moments
from plugip.noise.base import Noise as Noise
from plugip.noise.base import count_observed as count_observed
from plugip.noise.base import excess_kurtosis as excess_kurtosis
from plugip.noise.base import residual_moments as residual_moments
from plugip.noise.base import sum_observed as sum_observed
from plugip.noise.base import sum_of_squares as sum_of_squares
from plugip.noise.compound import CompoundNoise as CompoundNoise
from plugip.noise.corruptions import IMAGENET_C as IMAGENET_C
from plugip.noise.corruptions import imagenet_c as imagenet_c
from plugip.noise.gaussian import GaussianNoise as GaussianNoise
from plugip.noise.pixels import ImpulseNoise as ImpulseNoise
from plugip.noise.pixels import SpeckleNoise as SpeckleNoise
from plugip.noise.poisson import PoissonGaussianNoise as PoissonGaussianNoise
from plugip.noise.poisson import PoissonNoise as PoissonNoise
from plugip.noise.poisson import ShotNoise as ShotNoise
from plugip.noise.rician import RicianNoise as RicianNoise
from plugip.noise.scales import SCALES as SCALES
from plugip.noise.scales import convert_level as convert_level
from plugip.noise.scales import say_level as say_level
from plugip.noise.unknown import Hidden as Hidden
from plugip.noise.unknown import UnknownNoise as UnknownNoise
