"""What a plan's numbers rest on, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from lotperm.cluster.amounts import digits, size
from lotperm.cluster.costs import ASSUMPTIONS
from lotperm.cluster.estimate import Estimator
from lotperm.store.tasks import Task


def notes_on(tasks: Sequence[Task], estimator: Estimator) -> list[str]:
    """Say what a plan's numbers rest on, and what won't fit into the device's memory."""
    notes, device = [], estimator.device
    lines = [estimator.line(task) for task in tasks]
    speeds = {
        s
        for t in tasks
        if (s := estimator.speed(t.experiment, max(1, t.work.networks))) and t.work.networks
    }
    for s in sorted(speeds, key=lambda s: (s.model, s.width, s.members)):
        notes.append(
            f"Measured: {s.model} ×{s.width:g}, {s.members} at once, {s.images_per_second:,.0f} images/s on "
            f"{device.words} ({s.source})."
        )
    # A reader has to know which hours are estimates, and what they rest on.
    guessed = sorted({line.network for line in lines if not line.measured})
    if guessed and device.flops:
        least = sum(line.least for line in lines if not line.measured)
        at = ", ".join(f"{flops / 1e12:g} TFLOP/s {name}" for name, flops in device.flops.items())
        notes.append(
            f"Not measured on {device.words}, so estimated, at least {digits(least / 3600)} h: "
            f"{'; '.join(guessed)}. Assumed: {at}, {device.bandwidth / 1e12:g} TB/s ({device.source})."
        )
        notes.append(ASSUMPTIONS)
    elif guessed:
        notes.append(
            f"Not measured on {device.words}: {'; '.join(guessed)}. Measure it: --measure."
        )
    # The stage that needs most decides whether all fit.
    for task, line in sorted(zip(tasks, lines, strict=True), key=lambda x: -x[1].device_bytes)[:1]:
        if line.device_bytes > device.memory:
            at_once = estimator.members or task.work.networks
            fits = next(
                (
                    m
                    for m in range(at_once, 0, -1)
                    # Memory doesn't depend on speeds, so none are looked up.
                    if Estimator(estimator.name, [], m).line(task).device_bytes <= device.memory
                ),
                None,
            )
            hint = f"--members {fits} fits" if fits else "one network alone is too large"
            notes.append(
                f"{line.network}, {line.group}: {size(line.device_bytes)} is more than the device has "
                f"({size(device.memory)}); {hint}."
            )
    notes.append(
        "Device memory: weights, momentum, mask, gradients and activations of the networks trained at once, and the "
        "data. Host memory: the weights that a stage keeps, once; writing a checkpoint takes several times as much for "
        "a moment. Keeping fewer epochs of the dense networks (`keep` in a campaign) lowers it, and the disk."
    )
    return notes
