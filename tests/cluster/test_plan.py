"""Plans: their numbers equal those counted by hand, and they need no data."""

import dataclasses
import re
from pathlib import Path

import pytest
import torch

from lotperm import Experiment, Store
from lotperm.cluster import costs, plan
from lotperm.cluster.campaign import Campaign
from lotperm.cluster.costs import DEVICES, Speed, measure, network
from lotperm.config.experiment import DataConfig, ModelConfig
from lotperm.config.presets import FIGURES
from lotperm.engine import run as engine_run
from lotperm.engine.models import build
from lotperm.errors import ParameterError, StorageError
from lotperm.studies.arms import study as arms_study

CIFAR = DataConfig("cifar10")
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _without_data_or_training(monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("a plan must not train")

    def nowhere(*args, **kwargs):
        raise StorageError("there are no data here")

    for name in ("workbench.train", "stages.initialize"):
        monkeypatch.setattr(f"lotperm.studies.{name}", never)
    monkeypatch.setattr("lotperm.studies.subject.load_configured", nowhere)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def table(store, device="h100", **parameters):
    """The plan of the paper's table of ResNet20 ×1 on CIFAR-10: 3 seeds, 4 sparsities, k = 20."""
    part = plan.figure(
        "resnet20_cifar10", **{"profile": "paper", "widths": 1.0, "rewind_epoch": 20, **parameters}
    )
    return plan.plan([part], plan.Estimator(device, []), store)


def test_resnet20_costs_what_the_paper_of_resnets_and_two_wide_shortcuts_make():
    """Counted by hand: convolutions 3×3, (channels in, channels out, values a side) and how
    many of them.
    """
    layers = [
        (3, 16, 32, 1),
        (16, 16, 32, 6),
        (16, 32, 16, 1),
        (32, 32, 16, 5),
        (32, 64, 8, 1),
        (64, 64, 8, 5),
    ]
    shortcuts = [(16, 32, 16, 1), (32, 64, 8, 1)]
    products = (
        sum(9 * a * b * side**2 * count for a, b, side, count in layers + shortcuts) + 64 * 10
    )
    found = network(ModelConfig("resnet20"), CIFAR)
    assert found.forward_flops == 2 * products
    assert costs.TRAIN_FACTOR * found.forward_flops == pytest.approx(0.257e9, rel=0.005)
    assert found.prunable == 268_336
    assert (
        found.outputs == sum(b * side**2 * count for _, b, side, count in layers + shortcuts) + 10
    )
    assert found.layers == 22
    assert found.largest == 16 * 32 * 32


@pytest.mark.parametrize(("width", "gflop"), [(4.0, 4.09), (8.0, 16.3), (16.0, 65.3)])
def test_flops_grow_with_the_square_of_the_width(width, gflop):
    assert 3 * network(ModelConfig("resnet20", width), CIFAR).forward_flops / 1e9 == pytest.approx(
        gflop, rel=0.01
    )


def test_sizes_are_those_of_the_real_network():
    real = build("resnet20", input_shape=(3, 32, 32), classes=10)
    found = network(ModelConfig("resnet20"), CIFAR)
    assert found.parameters == sum(p.numel() for p in real.parameters())
    assert found.state_bytes == sum(t.numel() * t.itemsize for t in real.state_dict().values())


def test_saved_activations_are_what_autograd_keeps():
    real, kept = build("resnet20", input_shape=(3, 32, 32), classes=10), {}
    own = {p.data_ptr() for p in real.parameters()}

    def keep(tensor):
        if tensor.data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = real(torch.zeros(2, 3, 32, 32))
    held = sum(tensor.numel() for tensor in kept.values()) // 2
    assert result.shape == (2, 10)
    assert network(ModelConfig("resnet20"), CIFAR).saved == pytest.approx(held, rel=0.02)


def test_the_table_of_resnet20_counted_by_hand(store):
    found = table(store)
    lines = {line.group: line for line in found.lines}
    # Rounds of 20 %: 8, 11, 14 and 16. Those towards 97 % serve the others, but for the last of
    # each, which is cut.
    rounds = 16 + 3
    assert lines["dense A and B"].epochs == 3 * 400
    assert lines["IMP rounds"].epochs == 3 * 50 * rounds
    assert lines["sparse arms"].epochs == 3 * 12 * 180
    # The count that takes only the 16 rounds, 10,080, and the three rounds of their own of 80, 90
    # and 95 %.
    assert found.total.epochs == 3 * (400 + 16 * 50 + 12 * 180) + 3 * 3 * 50 == 10_080 + 450
    assert found.total.train_images == found.total.epochs * 390 * 128
    forward = found.total.forward_images
    assert (
        found.total.flops
        == (3 * found.total.train_images + forward)
        * network(ModelConfig("resnet20"), CIFAR).forward_flops
    )
    assert lines["matching"].forward_images == 3 * 2 * 50_000


def test_what_sharing_saves_counted_by_hand(store):
    again, every = table(store).separately.values()
    rounds = (8, 11, 14, 16)
    assert again.epochs == 3 * (4 * 400 + 50 * sum(rounds) + 12 * 180)
    assert every.epochs == 3 * sum(3 * (400 + 50 * r) + 3 * 180 for r in rounds)


def test_parts_share_their_stages(store):
    one = table(store, sparsity=0.8).total.epochs
    parts = [
        plan.figure("resnet20_cifar10", profile="paper", widths=1.0, rewind_epoch=20, sparsity=s)
        for s in (0.8, 0.9)
    ]
    both = plan.plan(parts, plan.Estimator("h100", []), store).total.epochs
    assert both == one + 3 * (50 * (10 + 1 - 7) + 3 * 180)


def test_disk_is_what_the_store_will_hold(store):
    lines = {line.group: line for line in table(store, seeds=1, sparsity=0.8).lines}
    state = network(ModelConfig("resnet20"), CIFAR).state_bytes
    assert (
        lines["dense A and B"].disk_bytes == 2 * 42 * state
    )  # 41 epochs, and the end under a name of its own
    assert lines["IMP rounds"].disk_bytes == 8 * (state + 268_336)
    assert lines["sparse arms"].disk_bytes == 3 * state


def test_disk_and_work_against_a_real_run(tmp_path, monkeypatch, smoke):
    pipeline, _ = smoke
    tasks = pipeline.tasks()
    estimator = plan.Estimator("cpu", [])
    real = {task.key: sum(f["bytes"] for f in task.run().files.values()) for task in tasks}
    for task in tasks:
        if task.work.networks:
            # Headers of the files, and counters, are besides.
            assert real[task.key] == pytest.approx(estimator.line(task).disk_bytes, rel=0.1)
    assert plan.plan(
        [plan.Part("smoke", (pipeline.experiment,), lambda benches: arms_study.tasks(benches[0]))],
        estimator,
        pipeline.store,
    ).there == (len(tasks))


def test_growth(store):
    part = plan.figure("resnet20_cifar10", profile="paper", widths=1.0, rewind_epoch=20)
    rows = {
        row["what"].split(",")[0].split(" (")[0]: row
        for row in plan.growth(part, plan.Estimator("h100", []), store)
    }
    assert rows["one more seed"]["more FLOP"] == "+33 %"
    assert int(rows["one more rewind point"]["epochs"].replace(",", "")) == 10_530 + 3 * 12 * 185
    assert int(rows["one more sparsity"]["epochs"].replace(",", "")) == 10_530 + 3 * (
        2 * 50 + 3 * 180
    )
    assert rows["twice the width"]["epochs"] == "10,530"


@pytest.mark.parametrize("figure", FIGURES)
def test_every_figure_has_a_plan_at_the_papers_scale(store, figure):
    found = plan.plan([plan.figure(figure, profile="paper")], plan.Estimator("h100", []), store)
    assert found.total.seconds[0] > 0
    assert found.total.flops == pytest.approx(sum(line.flops for line in found.lines))
    assert "Not measured on NVIDIA H100" in found.notes[0]


def test_a_campaign_has_a_plan(store):
    parts = plan.campaign(Campaign.load(ROOT / "campaigns" / "smoke.yaml"))
    found = plan.plan(parts, plan.Estimator("h100", []), store)
    assert {"early matching", "diversity", "connectivity", "sparse arms"} <= {
        line.group for line in found.lines
    }


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (
            ["plan", "figure5", "-p", "widths=1", "-p", "rewind_epoch=20"],
            0,
            "total 25 99 10,530",
        ),
        (["plan", str(ROOT / "campaigns" / "smoke.yaml"), "--gpu", "cpu"], 0, "--measure"),
        (["plan", "figure6"], 2, "unknown figure"),
        (["plan", "figure5", "--gpu", "h10"], 2, "Did you mean 'h100'?"),
        (["sweep", "nowhere.yaml"], 5, "nowhere.yaml"),
        (["sweep", "status", str(ROOT / "campaigns" / "smoke.yaml")], 5, "was not swept from here"),
        (
            ["sweep", "--cluster", "moab", str(ROOT / "campaigns" / "smoke.yaml")],
            2,
            "'slurm' or 'local'",
        ),
    ],
)
def test_the_command_line(command, arguments, code, said):
    got, out, err = command(*arguments)
    assert got == code, err
    assert said in " ".join((out + err).split())


def speed(experiment, members, rate):
    shape = (3, 32, 32)
    return Speed(
        device="h100",
        model="resnet20",
        width=1.0,
        hidden=(),
        input_shape=shape,
        precision=experiment.dense.precision,
        members=members,
        images_per_second=rate,
        source="a test",
    )


def test_a_measured_speed_is_taken_and_named(store):
    part = plan.figure("resnet20_cifar10", profile="paper", widths=1.0, rewind_epoch=20)
    e = part.experiments[0]
    speeds = [
        speed(e, 3, 100_000.0),
        speed(e, 9, 200_000.0),
        dataclasses.replace(speed(e, 9, 1.0), width=4.0),
    ]
    found = plan.plan([part], plan.Estimator("h100", speeds), store)
    lines = {line.group: line for line in found.lines}
    images = lines["IMP rounds"].train_images + lines["IMP rounds"].forward_images / 3
    assert lines["IMP rounds"].seconds == pytest.approx((images / 100_000, images / 100_000))
    images = lines["sparse arms"].train_images + lines["sparse arms"].forward_images / 3
    assert lines["sparse arms"].seconds == pytest.approx((images / 200_000, images / 200_000))
    assert found.total.measured
    assert any(
        "3 at once, 100,000 images/s on NVIDIA H100 (a test)" in note for note in found.notes
    )
    assert not any("estimated" in note for note in found.notes)


def test_the_roofline_by_hand(store):
    """In TF32 one ×1 network is bound by memory: 13 passes over 200,714 values of 4 bytes at
    3 TB/s; in float32 by arithmetic, of 67 TFLOP/s.
    """
    line = table(store, seeds=3, precision="tf32").lines[0]
    images = line.train_images + line.forward_images / 3
    assert line.least == pytest.approx(images * 13 * 200_714 * 4 / 3e12)
    assert line.seconds == pytest.approx((line.least / 0.6, line.least / 0.4))
    assert not line.measured
    line = table(store, seeds=3).lines[0]
    forward = network(ModelConfig("resnet20", 1.0), DataConfig("cifar10")).forward_flops
    assert line.least == pytest.approx(images * 3 * forward / 67e12)


def test_a_device_without_a_roof_says_that_it_is_not_measured(store):
    found = table(store, "cpu")
    assert found.rows()[-1]["hours"] == "not measured"
    assert "--measure" in found.notes[0]
    with pytest.raises(ParameterError, match="Did you mean 'h100'"):
        plan.Estimator("h10", [])


def test_what_does_not_fit_is_said(store):
    part = plan.figure("resnet20_cifar10", profile="paper", widths=16.0, seeds=20, rewind_epoch=20)
    found = plan.plan([part], plan.Estimator("h100", []), store)
    (note,) = [note for note in found.notes if "is more than the device has" in note]
    fits = int(re.search(r"--members (\d+) fits", note)[1])
    for members, enough in ((fits, True), (fits + 1, False)):
        lines = plan.plan([part], plan.Estimator("h100", [], members), store).lines
        sparse = next(line for line in lines if line.group == "sparse arms")
        assert (sparse.device_bytes <= DEVICES["h100"].memory) == enough


def test_a_speed_is_measured_on_noise(monkeypatch):
    e = Experiment.from_parameters(profile="smoke", hidden=[8])
    found = measure(e, 2, "cpu", seconds=0.05)
    assert found.images_per_second > 0
    assert found.fits("cpu", e)
    assert not found.fits("h100", e)


def test_what_comes_before_the_first_step_is_not_measured(monkeypatch):
    """By a clock of its own: making ready takes 100 seconds, and each step one."""
    now = [1.0]
    step, prepare = engine_run.Run.update, engine_run.Run.prepare

    def later(seconds, original):
        def wrapped(*arguments):
            now[0] += seconds
            return original(*arguments)

        return wrapped

    monkeypatch.setattr(costs.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(engine_run.Run, "update", later(1.0, step))
    monkeypatch.setattr(engine_run.Run, "prepare", later(100.0, prepare))
    e = Experiment.from_parameters(profile="smoke", hidden=[8])
    found = measure(e, 1, "cpu", seconds=5.0)
    assert found.images_per_second == pytest.approx(e.dense.batch_size)
    assert found.source.startswith("5 steps on ")


def test_a_network_that_reads_files_is_measured_on_noise_too():
    (e,) = Experiment.for_figure("resnet50_imagenet", profile="smoke")
    assert e.dense.augment == "flip_resized_crop"
    found = measure(e, 1, "cpu", seconds=0.01)
    assert found.images_per_second > 0 and found.fits("cpu", e)


def test_another_gpu_is_not_filed_under_a_name_that_is_not_its(command, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA A100-SXM4-80GB")
    code, _, err = command("plan", "figure5", "--gpu", "h100", "--measure")
    assert code == 2 and "--gpu is h100, but the GPU to be measured here is: NVIDIA A100" in err


def test_recorded_speeds_are_kept_and_read(tmp_path, monkeypatch):
    (tmp_path / "results").mkdir()
    monkeypatch.setattr(costs, "book_folder", lambda: tmp_path)
    assert costs.recorded_speeds() == []
    one = Speed(
        device="h100",
        model="mlp",
        width=1.0,
        hidden=(128, 128),
        input_shape=(1, 40),
        precision="float32",
        members=8,
        images_per_second=1e6,
        source="a test",
    )
    costs.record_speeds([one])
    assert costs.recorded_speeds() == [one]
    faster, other = (
        dataclasses.replace(one, images_per_second=2e6),
        dataclasses.replace(one, members=16),
    )
    costs.record_speeds([faster, other])
    assert costs.recorded_speeds() == [faster, other]
