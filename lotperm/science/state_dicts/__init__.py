"""Reading state dicts and masks in any common form, whatever their names, nesting and dtypes.

Weights come as modules, as state dicts, and as checkpoints that hold one (`mappings`); their names
may have prefixes from wrappers and training frameworks (`names`). `torch.nn.utils.prune` and weight
norm keep a weight as tensors under other names (`computed`). Here all of these become tensors under
the names of a network (`reading`).
"""

from lotperm.science.state_dicts.computed import weight, weights_by_name
from lotperm.science.state_dicts.mappings import (
    as_dense,
    copy_of,
    dict_like,
    is_parameter,
    state_dict_of,
    state_dicts,
)
from lotperm.science.state_dicts.names import foreign_names, mask_names, match_names
from lotperm.science.state_dicts.reading import as_bool, read_mask, read_weights

__all__ = [
    "as_bool",
    "as_dense",
    "copy_of",
    "dict_like",
    "foreign_names",
    "is_parameter",
    "mask_names",
    "match_names",
    "read_mask",
    "read_weights",
    "state_dict_of",
    "state_dicts",
    "weight",
    "weights_by_name",
]
