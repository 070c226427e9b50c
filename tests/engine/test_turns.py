"""Parts of a training run that take turns on fewer threads."""

from types import SimpleNamespace

import pytest
import torch

from lotperm.config.experiment import Recipe
from lotperm.config.seeds import Seeds
from lotperm.data.dataset import Dataset, Split
from lotperm.engine import turns
from lotperm.engine.models import build, initialize
from lotperm.engine.runtime import Runtime
from lotperm.engine.training import train
from lotperm.parallel.threads import workers


class Part:
    """A part that counts its steps, and writes down who else has done how many."""

    def __init__(self, steps, every, *, streamed=False):
        self.step, self.steps, self.every = 0, steps, every
        self.data = SimpleNamespace(streamed=streamed)
        self.calls, self.running = 0, False
        every.append(self)

    def advance(self, epoch, pause, bar):
        assert epoch == 3 and not self.running
        self.running, self.calls = True, self.calls + 1
        while self.step < self.steps:
            self.step += 1
            if pause():
                break
        self.running = False
        self.behind = min(part.step for part in self.every)


@pytest.mark.parametrize(("count", "threads"), [(3, 2), (5, 2), (5, 3), (7, 4)])
def test_the_part_that_is_furthest_behind_goes_on(count, threads):
    parts = []
    for _ in range(count):
        Part(80, parts)
    with workers(threads) as each:
        turns.advance(each, threads, parts, 3, lambda: False, None)
    assert [(part.step, part.calls) for part in parts] == [(80, 8)] * count
    # When the first one ends, no other has more than its last turns to go.
    assert max(part.behind for part in parts) == 80
    assert all(part.behind >= 60 for part in parts)


@pytest.mark.parametrize(
    ("count", "threads", "streamed"), [(4, 2, False), (1, 2, False), (3, 1, False), (3, 2, True)]
)
def test_parts_run_in_one_piece_where_turns_gain_nothing(count, threads, streamed):
    parts = []
    for _ in range(count):
        Part(80, parts, streamed=streamed)
    with workers(threads) as each:
        turns.advance(each, threads, parts, 3, lambda: False, None)
    assert [(part.step, part.calls) for part in parts] == [(80, 1)] * count


def test_a_pause_ends_all_turns_and_what_is_left_goes_on():
    parts, asked = [], []
    for steps in (3, 80, 80):
        Part(steps, parts)

    def pause():
        asked.append(1)
        return len(asked) > 40

    with workers(2) as each:
        turns.advance(each, 2, parts, 3, pause, None)
        assert 40 <= sum(part.step for part in parts) <= 45
        turns.advance(each, 2, parts, 3, lambda: False, None)
    assert [part.step for part in parts] == [3, 80, 80]


def test_turns_change_no_bit(two_threads, monkeypatch):
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randint(256, (1200, 3, 8, 8), generator=draw, dtype=torch.uint8)
    data = Split(inputs, torch.randint(5, (1200,), generator=draw))
    data = Dataset("toy", data, data, 5, torch.full((3,), 0.5), torch.full((3,), 0.25))
    recipe = Recipe(epochs=2, lr=0.02, batch_size=32, augment="flip_crop")

    def make():
        return build("resnet8", input_shape=(3, 8, 8), classes=5, width=0.25)

    begun = []
    plain = turns.Run.advance

    def advance(run, *args, **kwargs):
        begun.append(run.step)
        plain(run, *args, **kwargs)

    monkeypatch.setattr(turns.Run, "advance", advance)
    found = []
    for turns_of_a_part in (1, 8):
        monkeypatch.setattr(turns, "_TURNS", turns_of_a_part)
        found.append(
            train(
                make(),
                [initialize(make, i) for i in range(3)],
                data,
                recipe,
                [Seeds.of("turns", i) for i in range(3)],
                runtime=Runtime(members=1),
            )
        )
    assert (begun.count(0), len(begun)) == (12, 3 * 2 * 1 + 3 * 2 * 10)
    assert found[0].train_loss == found[1].train_loss
    for one, other in zip(found[0].weights, found[1].weights, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
