"""What a case answers, in short: digests of every tensor, costs, and a few numbers to compare.

``PYTHONPATH=.:tests python -m parity.answers`` writes the answers of the code as it is into
``answers.json``. A commit that changes that file changes answers, and says why.
"""

from __future__ import annotations

import hashlib
import json
import platform
from pathlib import Path
from typing import Any

import torch
from parity.cases import IDS, cases
from torch import Tensor

from plugip.loop import solve
from plugip.method import Method, Solution
from plugip.problem import Problem

FILE = Path(__file__).with_name("answers.json")


def machine() -> str:
    """Names everything that decides how float32 kernels round: processor and torch."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    model = next((line for line in lines if line.startswith("model name")), platform.processor())
    return f"{model.rpartition(':')[2].strip()}, torch {torch.__version__}"


def answer(problem: Problem, method: Method[Any]) -> dict[str, Any]:
    """Solves a case on one thread and describes its solution; a refusal by its class."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return described(solve(problem, method, 0, ids=list(IDS)))
    except (TypeError, ValueError) as error:
        return {"refused": type(error).__name__}
    finally:
        torch.set_num_threads(threads)


def described(solution: Solution) -> dict[str, Any]:
    """Returns digests of all tensors, costs and steps, and sixteen pixels of the answer."""
    theta = solution.theta
    parts = theta if isinstance(theta, dict) else {"theta": theta}
    tensors = {"x_hat": solution.x_hat, "last": solution.last, "z": solution.z} | parts
    for i, trace in enumerate(solution.trace):
        tensors |= {f"loss {i}": trace.loss, f"residual {i}": trace.residual}
    pixels = solution.x_hat.flatten()
    return {
        "digests": {name: digest(t) for name, t in tensors.items() if t is not None},
        "costs": [solution.steps, solution.answer_steps, solution.nfe, solution.vjps],
        "pixels": [round(float(v), 5) for v in pixels[:: max(len(pixels) // 16, 1)][:16]],
    }


def digest(t: Tensor) -> str:
    """Returns a short digest of a tensor's exact values."""
    data = t.detach().cpu().contiguous().numpy().tobytes()
    return hashlib.sha256(data).hexdigest()[:16]


def main() -> None:
    """Records the answers of all cases, on one thread like the tests."""
    torch.set_num_threads(1)
    answers = {name: answer(problem, method) for name, problem, method in cases()}
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(a)}" for name, a in answers.items())
    FILE.write_text(f'{{"machine": {json.dumps(machine())},\n"answers": {{\n{lines}\n}}}}\n')
    print(f"{len(answers)} answers in {FILE.name}")


if __name__ == "__main__":
    main()
