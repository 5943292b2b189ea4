"""Every option of a training, checked when it is made; no torch here."""

from __future__ import annotations

from dataclasses import dataclass, field

from plugip.options import require_choice
from plugip.training.checks import (
    TrainingError,
    require_flag,
    require_number,
    require_text,
    require_whole,
)
from plugip.training.sections import (
    Card,
    Checkpoint,
    Data,
    Evaluation,
    Log,
    Network,
    Optimiser,
    Output,
    Sheet,
)

OBJECTIVES = ("velocity", "epsilon")
TIMES = ("stratified", "uniform", "logit_normal")
PRECISIONS = ("fp32", "bf16", "fp16")


@dataclass(frozen=True)
class Settings:
    """A whole training; the same settings lead to the same weights on the same machine.

    Args:
        data: Which images.
        network: The architecture.
        optimiser: AdamW.
        log: Rows of scalars.
        eval: The held-out loss.
        sheet: Pictures of samples.
        checkpoint: Files from which it goes on.
        card: Texts of the model card.
        output: Where the model goes.
        steps: Optimisation steps in all.
        batch_size: Images in a step, of all processes together.
        objective: velocity (flow matching) or epsilon (DDPM's noise prediction).
        times: How training times are drawn: uniform; stratified, which is uniform and spreads a
            batch evenly; logit_normal, more in the middle (velocity only).
        ema_decay: Decay of the averaged weights, which are the ones that are kept.
        init: A diffusers folder of the same architecture to start from.
        minutes: Ends, with a checkpoint, this many minutes after the start.
        rng_seed: With the step it fixes every random number.
        precision: fp32, bf16 or fp16.
        device: auto, cpu or cuda.
        threads: CPU threads; None takes one for each core.
        channels_last: Memory layout that suits convolutions on some devices.
        compile: Whether torch.compile is used.

    Raises:
        ValueError: If an option is out of range; the sentence names it.
    """

    data: Data
    network: Network = field(default_factory=Network)
    optimiser: Optimiser = field(default_factory=Optimiser)
    log: Log = field(default_factory=Log)
    eval: Evaluation = field(default_factory=Evaluation)
    sheet: Sheet = field(default_factory=Sheet)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    card: Card = field(default_factory=Card)
    output: Output = field(default_factory=Output)
    steps: int = 20_000
    batch_size: int = 64
    objective: str = "velocity"
    times: str = "stratified"
    ema_decay: float = 0.999
    init: str | None = None
    minutes: float | None = None
    rng_seed: int = 0
    precision: str = "fp32"
    device: str = "auto"
    threads: int | None = None
    channels_last: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        require_whole("steps", self.steps, 1)
        require_whole("batch_size", self.batch_size, 1)
        require_whole("rng_seed", self.rng_seed, 0)
        require_whole("threads", self.threads, 1, none=True)
        require_number("minutes", self.minutes, 0, above=True, none=True)
        require_number("ema_decay", self.ema_decay, 0, 0.999999)
        require_text("init", self.init, none=True)
        require_flag("channels_last", self.channels_last)
        require_flag("compile", self.compile)
        require_choice(self.objective, OBJECTIVES, "objective")
        require_choice(self.times, TIMES, "times")
        require_choice(self.precision, PRECISIONS, "precision")
        if self.objective == "epsilon" and self.times == "logit_normal":
            raise TrainingError("times=logit_normal is made for objective=velocity; use uniform")
        if self.optimiser.warmup is not None and self.optimiser.warmup >= self.steps:
            raise TrainingError(
                f"optimiser.warmup={self.optimiser.warmup} must be less than steps={self.steps}"
            )
        self.network.require_fitting(self.data.size)
