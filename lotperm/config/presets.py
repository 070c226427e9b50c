"""What every profile, data set and figure runs."""

from __future__ import annotations

from typing import Any

from lotperm.config.parameters import DATASETS, IMAGE_FOLDERS, require_choice

_COMMON: dict[str, Any] = {
    "width": 1.0,
    "hidden": (128, 128),
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "batch_size": 128,
    "augment": "none",
    "precision": "float32",
    "imp": "finetune",
    "prune_fraction": 0.2,
    "scope": "global",
    "prunable": "paper",
    "matching": "activation",
    "match_points": "last",
    "lr": 0.08,
    "sparse_lr": 0.02,
    "finetune_lr": 0.01,
    "schedule": "cosine",
    "milestones": (),
    "gamma": 0.1,
    "warmup_epochs": 0,
    "finetune_schedule": "cosine",
}


PROFILES: dict[str, dict[str, Any]] = {
    "smoke": {
        "dataset": "mnist1d",
        "model": "mlp",
        "hidden": (48, 48),
        "seeds": (0, 1, 2),
        "epochs": 12,
        "rewind_epoch": (2,),
        "finetune_epochs": 2,
        "sparsity": (0.8,),
        "sparse_lr": 0.08,
    },
    "live": {
        "dataset": "mnist1d",
        "model": "mlp",
        "seeds": tuple(range(8)),
        "epochs": 40,
        "rewind_epoch": (8,),
        "finetune_epochs": 10,
        "sparsity": (0.9,),
    },
    "desktop": {
        "dataset": "fashion_mnist",
        "model": "mlp",
        "hidden": (256, 256),
        "seeds": tuple(range(5)),
        "epochs": 20,
        "rewind_epoch": (4,),
        "finetune_epochs": 4,
        "sparsity": (0.9,),
        "match_samples": 10_000,
    },
    "paper": {
        "dataset": "cifar10",
        "model": "resnet20",
        "seeds": (0, 1, 2),
        "epochs": 200,
        "rewind_epoch": (20,),
        "finetune_epochs": 50,
        "sparsity": (0.8, 0.9, 0.95, 0.97),
        "augment": "flip_crop",
    },
}


# What a data set other than the profile's own asks for, below the paper's scale.
_IMAGES: dict[str, Any] = {
    "model": "resnet8",
    "augment": "flip_crop",
    "match_samples": 2_000,
}


# ResNet50 on ImageNet: what the paper's protocol says, and, below its scale, the same shape of a
# schedule.
_IMAGENET: dict[str, Any] = {
    "dataset": "imagefolder",
    "model": "resnet50",
    "image_size": 224,
    "resize_size": 256,
    "augment": "flip_resized_crop",
    "epochs": 90,
    "lr": 0.04,
    "sparse_lr": 0.04,
    "weight_decay": 1e-4,
    "batch_size": 256,
    "schedule": "step",
    "milestones": (31, 62),
    "warmup_epochs": 5,
    "finetune_epochs": 20,
    "finetune_lr": 0.002,
    "finetune_schedule": "constant",
    "match_samples": 50_000,
    "seeds": (0,),
}


_FILES: dict[str, Any] = {
    "model": "resnet50",
    "width": 0.25,
    "image_size": 32,
    "resize_size": 32,
    "augment": "flip_resized_crop",
    "batch_size": 32,
    "lr": 0.04,
    "sparse_lr": 0.04,
    "weight_decay": 1e-4,
    "finetune_schedule": "constant",
    "match_samples": 2_000,
}


_DATASETS: dict[str, dict[str, Any]] = {
    "imagefolder": {**_FILES, "image_size": 64, "resize_size": 73},
    "picture_crops": {**_FILES, "match_samples": None},
    "cifar10_png": _FILES,
    "mnist1d": {"model": "mlp", "augment": "none", "match_samples": None},
    "fashion_mnist": {"model": "mlp", "hidden": (256, 256), "match_samples": 10_000},
    "cifar10": _IMAGES,
    "cifar100": _IMAGES,
    "svhn": {**_IMAGES, "augment": "crop"},
}


# Enough of an image data set to see the effect at that profile's size and time.
_SUBSETS: dict[str, dict[str, Any]] = {
    "smoke": {"train_size": 1_000, "test_size": 500},
    "live": {
        "train_size": 10_000,
        "test_size": 5_000,
        "seeds": (0, 1, 2, 3, 4),
        "epochs": 20,
        "rewind_epoch": (4,),
        "finetune_epochs": 4,
    },
    "desktop": {},
}


# The networks of CIFAR figures at other sizes: their 1-D twins on MNIST-1D, and a small one on the
# real images.
_TINY: dict[str, Any] = {
    "dataset": "mnist1d",
    "model": "resnet8",
    "train_size": 1_000,
    "test_size": 500,
    "seeds": (0, 1),
    "epochs": 4,
    "rewind_epoch": (0, 1),
    "finetune_epochs": 1,
    "prune_fraction": 0.5,
    "sparsity": (0.8,),
    "widths": (0.25,),
}


_TWIN: dict[str, Any] = {
    "dataset": "mnist1d",
    "model": "resnet8",
    "seeds": (0, 1, 2, 3, 4),
    "epochs": 15,
    "rewind_epoch": (0, 3),
    "finetune_epochs": 2,
    "sparsity": (0.8, 0.9),
    "widths": (0.5, 1.0),
    "match_samples": 2_000,
}


_SMALL: dict[str, Any] = {
    "dataset": "cifar10",
    "model": "resnet8",
    "seeds": (0, 1, 2),
    "epochs": 16,
    "rewind_epoch": (2, 4),
    "finetune_epochs": 2,
    "sparsity": (0.8, 0.9, 0.95, 0.97),
    "match_samples": 10_000,
    "train_size": 10_000,
    "widths": (0.5,),
}


# ResNet50 from files: a narrow one on crops of a few pictures, and on CIFAR-10 as files.
_CROPS: dict[str, Any] = {
    **_FILES,
    "dataset": "picture_crops",
    "match_samples": None,
    "schedule": "step",
    "warmup_epochs": 1,
}


_REWIND_EPOCHS = (0, 5, 10, 15, 20, 25, 50, 75, 100)


FIGURES: dict[str, dict[str, dict[str, Any]]] = {
    "resnet20_cifar10": {
        "smoke": _TINY,
        "live": {**_TWIN, "widths": (0.25, 0.5)},
        "desktop": _SMALL,
        "paper": {"widths": (1.0, 4.0, 8.0, 16.0), "rewind_epoch": _REWIND_EPOCHS},
    },
    "resnet20_cifar100": {
        "smoke": _TINY,
        "live": {
            **_TWIN,
            "model": "resnet20",
            "widths": (0.25,),
            "sparsity": (0.9,),
            "rewind_epoch": (3,),
        },
        "desktop": {**_SMALL, "dataset": "cifar100"},
        "paper": {
            "dataset": "cifar100",
            "widths": (1.0, 4.0, 8.0, 16.0),
            "rewind_epoch": _REWIND_EPOCHS,
        },
    },
    "vgg11_cifar10": {
        "smoke": {**_TINY, "model": "vgg11", "widths": (0.0625,)},
        # Without batch norm, a narrow network of 9 layers learns at a smaller rate, and nothing at
        # all when it starts from B with more than two thirds of its weights removed.
        "live": {
            **_TWIN,
            "model": "vgg11",
            "widths": (0.125,),
            "epochs": 20,
            "rewind_epoch": (3, 8),
            "lr": 0.05,
            "sparse_lr": 0.05,
            "sparsity": (0.5, 0.65),
        },
        "desktop": {**_SMALL, "model": "vgg11", "widths": (0.25,)},
        "paper": {"model": "vgg11", "rewind_epoch": _REWIND_EPOCHS},
    },
    "svhn": {
        "smoke": _TINY,
        "live": {**_TWIN, "widths": (0.5,)},
        "desktop": {**_SMALL, "dataset": "svhn"},
        "paper": {"dataset": "svhn", "rewind_epoch": (10, 20)},
    },
    "diversity": {
        "smoke": {},
        "live": {},
        "desktop": {},
        "paper": {"sparsity": (0.9,), "seeds": (0, 1, 2, 3, 4), "rewind_epoch": (20,)},
    },
    "early_matching": {"smoke": {}, "live": {}, "desktop": {}, "paper": {}},
    "mode_connectivity": {
        "smoke": _TINY,
        "live": {**_TWIN, "rewind_epoch": (3,)},
        "desktop": {**_SMALL, "widths": (0.5, 1.0, 2.0)},
        "paper": {"widths": (1.0, 2.0, 4.0, 8.0), "sparsity": (0.9,)},
    },
    "resnet50_imagenet": {
        "smoke": {
            **_CROPS,
            "train_size": 64,
            "test_size": 48,
            "seeds": (0, 1),
            "epochs": 2,
            "rewind_epoch": (1,),
            "milestones": (1,),
            "batch_size": 16,
            "finetune_epochs": 1,
            "prune_fraction": 0.5,
            "sparsity": (0.5,),
            "widths": (0.0625,),
        },
        "live": {
            **_CROPS,
            "seeds": (0, 1, 2, 3, 4),
            "epochs": 16,
            "rewind_epoch": (4,),
            "milestones": (7, 12),
            "finetune_epochs": 2,
            "finetune_lr": 0.01,
            "prune_fraction": 0.5,
            "sparsity": (0.9,),
            "widths": (0.125,),
        },
        "desktop": {
            **_FILES,
            "dataset": "cifar10_png",
            "seeds": (0, 1, 2),
            "epochs": 16,
            "rewind_epoch": (2,),
            "schedule": "step",
            "milestones": (6, 11),
            "warmup_epochs": 1,
            "batch_size": 64,
            "finetune_epochs": 2,
            "train_size": 5_000,
            "sparsity": (0.8, 0.9),
            "widths": (0.25,),
        },
        "paper": {**_IMAGENET, "rewind_epoch": (20,)},
    },
}

"""Figure -> profile -> parameters that it asks for, over the profile's own; ``widths`` are
those of the network.
"""


def defaults_of(profile: str, dataset: str | None) -> dict[str, Any]:
    """Defaults of a profile, adapted where another data set than its own is asked for."""
    own = PROFILES[profile]
    defaults = {**_COMMON, **own}
    if dataset is None or dataset == own["dataset"]:
        return defaults
    require_choice("dataset", dataset, DATASETS)
    defaults["dataset"] = dataset
    if profile == "paper" and dataset in IMAGE_FOLDERS:
        return {**defaults, **_IMAGENET, "dataset": dataset}
    if profile == "paper":
        # The paper's protocol: SVHN without flips; the others as they stand.
        return {**defaults, "augment": "crop"} if dataset == "svhn" else defaults
    if dataset not in ("mnist1d", "picture_crops", "imagefolder"):
        defaults |= _SUBSETS[profile]
    return defaults | _DATASETS[dataset]
