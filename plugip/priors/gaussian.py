"""Temporary."""
import torch

from plugip.path import SIGNED, FlowPath
from plugip.prior import Prior


class GaussianPrior(Prior):
    def __init__(self, mean, std, path=None, value_range=SIGNED):
        super().__init__()
        self.register_buffer("mean", mean); self.register_buffer("std", torch.as_tensor(std))
        self.shape=tuple(mean.shape); self.path=path or FlowPath(); self.value_range=value_range; self.freeze()
    def forward(self, x_t, t):
        a,s=self.path.coefficients(t,x_t)
        v=self.std**2
        return self.mean + a*v/(a*a*v+s*s)*(x_t-a*self.mean)
