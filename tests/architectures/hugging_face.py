"""Small networks of Hugging Face's transformers, with random weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
_TEXT = {"vocab_size": 60, **_SIZES}
_BERT = {"max_position_embeddings": 16, **_TEXT}
_CAUSAL = {"use_cache": False, **_TEXT}
_GROUPED = {"num_key_value_heads": 2, **_CAUSAL}
_IMAGES = {"image_size": 32, "patch_size": 8, **_SIZES}

# Class of the network -> class of its configuration, and what is set there.
NETWORKS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "BertForSequenceClassification": ("BertConfig", _BERT),
    "RobertaForSequenceClassification": ("RobertaConfig", _BERT),
    "DistilBertForSequenceClassification": (
        "DistilBertConfig",
        {
            "vocab_size": 60,
            "max_position_embeddings": 16,
            "dim": 32,
            "n_layers": 2,
            "n_heads": 4,
            "hidden_dim": 48,
        },
    ),
    "AlbertForSequenceClassification": ("AlbertConfig", {"embedding_size": 16, **_BERT}),
    "ElectraForSequenceClassification": ("ElectraConfig", {"embedding_size": 16, **_BERT}),
    "DebertaV2ForSequenceClassification": ("DebertaV2Config", _BERT),
    "GPT2LMHeadModel": (
        "GPT2Config",
        {
            "vocab_size": 60,
            "n_positions": 16,
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "use_cache": False,
        },
    ),
    "GPTNeoXForCausalLM": ("GPTNeoXConfig", _CAUSAL),
    "OPTForCausalLM": (
        "OPTConfig",
        {"ffn_dim": 48, "word_embed_proj_dim": 32, "max_position_embeddings": 16, **_CAUSAL},
    ),
    "PhiForCausalLM": ("PhiConfig", _CAUSAL),
    "LlamaForCausalLM": ("LlamaConfig", _GROUPED),
    "MistralForCausalLM": ("MistralConfig", _GROUPED),
    "Qwen2ForCausalLM": ("Qwen2Config", _GROUPED),
    "GemmaForCausalLM": ("GemmaConfig", {"head_dim": 8, **_GROUPED}),
    "MambaForCausalLM": (
        "MambaConfig",
        {
            "vocab_size": 60,
            "hidden_size": 32,
            "state_size": 4,
            "num_hidden_layers": 2,
            "use_cache": False,
        },
    ),
    "ViTForImageClassification": ("ViTConfig", _IMAGES),
    "DeiTForImageClassification": ("DeiTConfig", _IMAGES),
    "SwinForImageClassification": (
        "SwinConfig",
        {
            "image_size": 32,
            "patch_size": 4,
            "embed_dim": 16,
            "depths": [2, 2],
            "num_heads": [2, 4],
            "window_size": 4,
        },
    ),
    "SegformerForImageClassification": (
        "SegformerConfig",
        {
            "num_encoder_blocks": 2,
            "depths": [1, 1],
            "sr_ratios": [2, 1],
            "hidden_sizes": [16, 32],
            "patch_sizes": [7, 3],
            "strides": [4, 2],
            "num_attention_heads": [1, 2],
            "mlp_ratios": [2, 2],
        },
    ),
    "ConvNextForImageClassification": (
        "ConvNextConfig",
        {"hidden_sizes": [16, 24], "depths": [1, 1], "num_stages": 2},
    ),
    "ResNetForImageClassification": (
        "ResNetConfig",
        {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "layer_type": "basic"},
    ),
    "Wav2Vec2ForSequenceClassification": (
        "Wav2Vec2Config",
        {
            "conv_dim": [16, 16],
            "conv_stride": [5, 2],
            "conv_kernel": [10, 3],
            "num_feat_extract_layers": 2,
            "num_conv_pos_embeddings": 4,
            "num_conv_pos_embedding_groups": 2,
            **_TEXT,
        },
    ),
}


def build(name: str) -> nn.Module:
    """Make a network of this class."""
    import transformers

    config, options = NETWORKS[name]
    return getattr(transformers, name)(getattr(transformers, config)(**options))


def inputs(name: str, n: int) -> Tensor:
    """Draw n texts, sounds or images, as the network takes them."""
    draw = torch.Generator().manual_seed(0)
    if name.startswith("Wav2Vec2"):
        return torch.randn(n, 400, generator=draw)
    if name.endswith("ForImageClassification"):
        return torch.randn(n, 3, 32, 32, generator=draw)
    return torch.randint(0, 60, (n, 12), generator=draw)
