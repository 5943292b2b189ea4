"""The network and what moves it: one optimisation step, and everything that a resume needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from plugip.path import SIGNED
from plugip.priors.diffusers_unet import DiffusersUNet
from plugip.rng import Rng, seed_torch, stream_key
from plugip.training.batches import Batches, states
from plugip.training.ema import Ema
from plugip.training.images import Images
from plugip.training.objective import OBJECTIVES, TIME_SCALE
from plugip.training.schedule import learning_rate
from plugip.training.settings import Settings
from plugip.training.times import TIMES


class Learner:
    """Moves a network towards its objective, one step at a time.

    Args:
        settings: The training.
        images: The images.
        net: The network, on the CPU.
        accelerator: accelerate's ``Accelerator``: device, precision, processes.

    Attributes:
        step: Finished steps.
        ema: The averaged weights.
        objective: What is learnt.
        shape: Shape of one state.
        grad_norm: Norm of the last gradient, before it was clipped.
    """

    def __init__(self, settings: Settings, images: Images, net: Any, accelerator: Any) -> None:
        self.settings, self.images = settings, images
        self.accelerator, self.device = accelerator, accelerator.device
        self.objective = OBJECTIVES[settings.objective]
        self.patch, self.step = settings.network.patch, 0
        self.memory = torch.channels_last if settings.channels_last else torch.contiguous_format
        self.net = net.to(self.device, memory_format=self.memory)
        self.ema = Ema(self.net, settings.ema_decay)
        self.pixels = _placed(images.pixels, self.device)
        self.shape = tuple(states(images.pixels[:1], self.patch)[0].shape)
        self.batches = Batches(
            images.train,
            settings.batch_size,
            self.shape,
            settings.rng_seed,
            TIMES[settings.times],
            accelerator.process_index,
            accelerator.num_processes,
        )
        self.optimiser = _optimiser(self.net, settings)
        model, self.stepper = accelerator.prepare(self.net, self.optimiser)
        # After prepare, as accelerate itself does: it rewrites forward for mixed precision.
        self.model = torch.compile(model) if settings.compile else model
        self.net.train()
        # Sum and count since they were last read; kept in checkpoints, so that a curve goes on.
        self.loss_sum, self.loss_count = torch.zeros((), device=self.device), 0
        self.grad_norm = torch.zeros(())

    def advance(self) -> None:
        """Makes one optimisation step."""
        settings, step = self.settings, self.step
        draw = self.batches.draw(step, self.device)
        h = self._states(draw.rows, draw.flip)
        if settings.network.dropout:
            purpose = f"dropout {self.accelerator.process_index}"
            seed_torch(stream_key(settings.rng_seed, purpose, str(step)))
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate(step)
        loss = self.objective.errors(_output(self.model), h, draw.level, draw.eps).mean()
        self.accelerator.backward(loss)
        self.grad_norm = self.accelerator.clip_grad_norm_(
            self.net.parameters(), settings.optimiser.clip
        )
        self.stepper.step()
        self.stepper.zero_grad()
        self.ema.update(self.net, step)
        self.loss_sum += loss.detach()
        self.loss_count, self.step = self.loss_count + 1, step + 1

    def rate(self, step: int) -> float:
        """Returns the learning rate of a step, counted from 0."""
        return learning_rate(self.settings.optimiser, step, self.settings.steps)

    def mean_loss(self) -> float:
        """Returns the mean loss since ``forget_loss``, over all processes; 0 if there is none."""
        self.loss_sum = self.accelerator.reduce(self.loss_sum, "mean")
        return float(self.loss_sum) / max(1, self.loss_count)

    def forget_loss(self) -> None:
        """Begins a new mean."""
        self.loss_sum, self.loss_count = torch.zeros_like(self.loss_sum), 0

    @torch.no_grad()
    def held_out_loss(self) -> float:
        """Returns the loss of the averaged weights on held-out images, always the same noise."""
        rows = self.images.held_out[: self.settings.eval.images]
        mine = torch.arange(len(rows))[self.accelerator.process_index :: self._processes]
        total = torch.zeros((), device=self.device)
        for part in mine.split(max(1, self.settings.batch_size // self._processes)):
            h, level = self._states(rows[part]), ((part + 0.5) / len(rows)).to(self.device)
            names = [str(int(i)) for i in part]
            eps = Rng(self.settings.rng_seed, "held out", names).normal(self.shape, h)
            total += self.objective.errors(_output(self.ema.net), h, level, eps).sum()
        return float(self.accelerator.reduce(total, "sum")) / len(rows)

    def prior(self) -> DiffusersUNet:
        """Returns the averaged weights as a prior."""
        path, prediction = self.objective.path, self.objective.prediction
        return DiffusersUNet(self.ema.net, path, prediction, SIGNED, self.patch, TIME_SCALE)

    def state(self) -> dict[str, Any]:
        """Returns everything that a resume needs, in types that load without running code."""
        scaler = self.accelerator.scaler
        return {
            "step": self.step,
            "net": self.net.state_dict(),
            "ema": self.ema.net.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": scaler.state_dict() if scaler else {},
            "loss_sum": self.loss_sum,
            "loss_count": self.loss_count,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Goes back to a state."""
        self.net.load_state_dict(state["net"])
        self.ema.net.load_state_dict(state["ema"])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.accelerator.scaler and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step, self.loss_count = state["step"], state["loss_count"]
        self.loss_sum = state["loss_sum"].to(self.device)

    @property
    def _processes(self) -> int:
        return self.accelerator.num_processes

    def _states(self, rows: Tensor, flip: Tensor | None = None) -> Tensor:
        pixels = self.pixels[rows.to(self.pixels.device)].to(self.device)
        return states(pixels, self.patch, flip).to(memory_format=self.memory)


def _optimiser(net: Any, settings: Settings) -> torch.optim.AdamW:
    given = settings.optimiser
    betas = (float(given.betas[0]), float(given.betas[1]))
    return torch.optim.AdamW(
        net.parameters(), lr=given.lr, betas=betas, weight_decay=given.weight_decay
    )


def _output(net: Any) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda h, time_input: net(h, time_input, return_dict=False)[0]


def _placed(pixels: Tensor, device: torch.device) -> Tensor:
    """Moves all pixels to a GPU where they take less than a quarter of its free memory."""
    if device.type != "cuda":
        return pixels
    free, _ = torch.cuda.mem_get_info(device)
    return pixels.to(device) if 4 * pixels.numel() < free else pixels
