"""How much slower work becomes beside other work on the same cores, with threads that wait busily and that sleep.

    python benchmarks/busy.py

Rows: ``alone``; ``busy``, beside one process that never rests; ``two``, two of the same at once. Synthesis steps (the
default teacher, 8 images of 96 pixels) wait by OpenMP, photos (the default student's network as ONNX) by onnxruntime.
Each number is a mean of processes that use all cores. ``spin`` is what the libraries do by themselves.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

SPINNING = {"GOMP_SPINCOUNT": "300000", "KMP_BLOCKTIME": "200"}  # What both take where nothing is set.
WORK = ("steps/s", "photos/s")
_SECONDS = 8.0


def rate(step: Callable[[], object]) -> float:
    """Calls a second after a few to warm up."""
    for _ in range(3):
        step()
    start, count = time.monotonic(), 0
    while time.monotonic() - start < _SECONDS:
        step()
        count += 1
    return count / (time.monotonic() - start)


def synthesis_rate() -> float:
    """Forward and backward passes a second of what a step of synthesis computes."""
    # Before torch, which reads the environment when it is loaded.
    from clipstill.core.cores import usable_cores  # isort: skip
    import torch

    from clipstill.core.seeds import generator_for
    from clipstill.teachers import load_teacher

    torch.set_num_threads(usable_cores())
    teacher = load_teacher("embedded-m", torch.device("cpu"))
    x_N3HW = torch.rand(8, 3, 96, 96, generator=generator_for("busy")).requires_grad_()

    def step() -> None:
        torch.autograd.grad(teacher.encode_image(x_N3HW).sum(), x_N3HW)

    return rate(step)


def photo_rate(spins: bool, folder: Path) -> float:
    """Photos a second of the default student's network, one at a time."""
    import numpy as np
    import onnxruntime
    import timm
    import torch

    from clipstill.core.cores import usable_cores
    from clipstill.core.onnx_session import open_session

    path = folder / f"{os.getpid()}.onnx"
    torch.onnx.export(
        timm.create_model("tf_efficientnet_lite0").eval(), (torch.rand(1, 3, 160, 160),), path, dynamo=False
    )
    if spins:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = usable_cores()
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    else:
        session = open_session(path, usable_cores())
    inputs = {session.get_inputs()[0].name: np.zeros((1, 3, 160, 160), np.float32)}
    return rate(lambda: session.run(None, inputs))


def start(work: str, spins: bool) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--work", work, *(["--spins"] if spins else [])]
    kept = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", *SPINNING)}
    environment = {**kept, **(SPINNING if spins else {})}
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def rates(work: str, spins: bool, beside: str) -> list[float]:
    """What each process reaches."""
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if beside == "busy" else None
    try:
        running = [start(work, spins) for _ in range(2 if beside == "two" else 1)]
        return [float(json.loads(each.communicate()[0])) for each in running]
    finally:
        if busy is not None:
            busy.kill()
            busy.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", choices=WORK, help=argparse.SUPPRESS)
    parser.add_argument("--spins", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work is not None:
        with tempfile.TemporaryDirectory() as folder:
            by_steps = options.work == "steps/s"
            print(json.dumps(synthesis_rate() if by_steps else photo_rate(options.spins, Path(folder))))
        return
    print("| work | threads that wait | alone | beside a busy process | two at once, each |\n|---|---|---:|---:|---:|")
    for work in WORK:
        for spins in (True, False):
            found = [rates(work, spins, beside) for beside in ("alone", "busy", "two")]
            cells = [f"{sum(each) / len(each):.2f}" for each in found]
            print(f"| {work} | {'spin' if spins else 'sleep'} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
