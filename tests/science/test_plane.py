"""The plane through three networks."""

import math

import pytest
import torch

from lotperm.engine.models import build
from lotperm.errors import ParameterError
from lotperm.science.plane import Plane
from lotperm.science.state_dicts import is_parameter


def weights(seed):
    torch.manual_seed(seed)
    model = build("resnet8", input_shape=(1, 16), classes=4, width=0.25).double()
    model.train()(torch.randn(8, 1, 16, dtype=torch.float64))
    return model.state_dict()


def distance(a, b):
    return math.sqrt(sum(float(((a[n] - b[n]) ** 2).sum()) for n in a if is_parameter(n, a[n])))


CORNERS = [weights(seed) for seed in range(3)]


def test_the_corners_are_where_they_are_said_to_be():
    plane = Plane.through(*CORNERS)
    assert plane.places[0] == (0, 0) and plane.places[1][1] == 0 and plane.places[2][1] > 0
    for corner, place in zip(CORNERS, plane.places, strict=True):
        found = plane.at(*place)
        assert found.keys() == corner.keys()
        for name, tensor in corner.items():
            # Counters of batches are the first corner's.
            expected = tensor if tensor.is_floating_point() else CORNERS[0][name]
            assert torch.allclose(found[name], expected, atol=1e-9), name
    assert torch.equal(CORNERS[0]["bn1.running_mean"], weights(0)["bn1.running_mean"])


def test_distances_of_places_are_those_of_parameters():
    plane = Plane.through(*CORNERS)
    places = [*plane.places, (1.5, -2.0), (-3.0, 4.0)]
    for p in places:
        for q in places:
            between = distance(plane.at(*p), plane.at(*q))
            assert between == pytest.approx(math.dist(p, q), abs=1e-9)


def test_the_grid_reaches_beyond_the_corners():
    plane = Plane.through(*CORNERS)
    xs, ys = plane.grid(5, margin=0.5)
    assert len(xs) == len(ys) == 5
    for axis, values in zip((xs, ys), zip(*plane.places, strict=True), strict=True):
        extent = max(values) - min(values)
        assert axis[0] == pytest.approx(min(values) - extent / 2)
        assert axis[-1] == pytest.approx(max(values) + extent / 2)
    with pytest.raises(ParameterError, match="steps is 1; expected 2 or more"):
        plane.grid(1)


def test_networks_on_one_line_are_refused():
    a, b, _ = CORNERS
    middle = {n: (a[n] + b[n]) / 2 if a[n].is_floating_point() else a[n] for n in a}
    for c in (middle, a):
        with pytest.raises(ParameterError, match="lie on one line"):
            Plane.through(a, b, c)
    with pytest.raises(ParameterError, match="lie on one line"):
        Plane.through(a, a, b)
