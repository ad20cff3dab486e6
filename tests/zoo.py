"""Small models of other packages, with random weights: how to build each, and what to call it with.

Nothing is downloaded. Sizes are the smallest that the architectures allow.
"""

from typing import Any

import torch
from torch import nn

Built = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]

TIMM = {
    "resnet10t": 64,
    "resnetv2_18": 64,
    "regnety_002": 64,
    "mobilenetv3_small_050": 64,
    "mobilenetv4_conv_small": 64,
    "efficientnet_lite0": 64,
    "efficientnet_b0": 64,
    "mnasnet_small": 64,
    "tinynet_e": 64,
    "lcnet_035": 64,
    "ghostnet_050": 64,
    "rexnet_100": 64,
    "semnasnet_075": 64,
    "hardcorenas_a": 64,
    "convnext_atto": 64,
    "edgenext_xx_small": 64,
    "mobilevit_xxs": 64,
    "mobileone_s0": 64,
    "repvgg_a0": 64,
    "dla46_c": 64,
    "poolformer_s12": 64,
    "caformer_s18": 64,
    "starnet_s1": 64,
    "vit_tiny_patch16_224": 224,
    "levit_128s": 224,
    "resmlp_12_224": 224,
    "xcit_nano_12_p16_224": 224,
}
_TINY = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 50}
_TEXT = {"intermediate_size": 48, "max_position_embeddings": 32}
_GATED = {"num_key_value_heads": 2, "pad_token_id": 0}
# The class, without its prefix, and what its config differs in.
TRANSFORMERS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2", {"n_embd": 32, "n_layer": 1, "n_head": 2, "vocab_size": 50}),
    "gpt2, relu": (
        "GPT2",
        {"n_embd": 32, "n_layer": 1, "n_head": 2, "vocab_size": 50, "activation_function": "relu"},
    ),
    "bert": ("Bert", _TINY | _TEXT),
    "bert, quick gelu": ("Bert", _TINY | _TEXT | {"hidden_act": "quick_gelu"}),
    "bert, squared relu": ("Bert", _TINY | _TEXT | {"hidden_act": "relu2"}),
    "albert": ("Albert", _TINY | _TEXT | {"embedding_size": 16}),
    "roberta": ("Roberta", _TINY | _TEXT),
    "electra": ("Electra", _TINY | _TEXT | {"embedding_size": 16}),
    "distilbert": (
        "DistilBert",
        {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 48, "vocab_size": 50},
    ),
    "opt": ("OPT", _TINY | {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "bloom": ("Bloom", {"hidden_size": 32, "n_layer": 1, "n_head": 2, "vocab_size": 50}),
    "gpt neox": ("GPTNeoX", _TINY | _TEXT),
    "llama": ("Llama", _TINY | _TEXT | _GATED),
    "phi": ("Phi", _TINY | _TEXT | _GATED),
    "gemma": ("Gemma", _TINY | _TEXT | _GATED | {"head_dim": 16}),
    "nemotron": ("Nemotron", _TINY | _TEXT | _GATED),
}
NAMES = (*TIMM, *TRANSFORMERS)


class MemoryEfficientSwish(torch.autograd.Function):
    """z sigmoid(z) with a backward pass of its own, as several packages have it."""

    @staticmethod
    def forward(ctx: Any, z: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(z)
        return z * torch.sigmoid(z)

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:
        (z,) = ctx.saved_tensors
        s = torch.sigmoid(z)
        return g * (s + z * s * (1 - s))


def build(name: str) -> Built:
    """Return a model and its arguments, the same at each call, in training mode."""
    torch.manual_seed(0)
    model, args, kwargs = _timm(name) if name in TIMM else _transformer(name)
    for module in model.modules():
        if isinstance(module, nn.Dropout) or type(module).__name__ == "DropPath":
            module.p = module.drop_prob = 0.0  # random numbers would differ from call to call
    for parameter in model.parameters():
        if not parameter.any():  # behind a head of zeros no gradient is left to compare
            nn.init.normal_(parameter, 0, 0.02)
    return model.train(), args, kwargs


def _timm(name: str) -> Built:
    import timm

    size = TIMM[name]
    model = timm.create_model(name, pretrained=False, num_classes=3)
    return model, (torch.randn(2, 3, size, size),), {}


def _transformer(name: str) -> Built:
    import transformers

    kind, changes = TRANSFORMERS[name]
    config = getattr(transformers, f"{kind}Config")(**changes, attn_implementation="eager")
    model = getattr(transformers, f"{kind}Model")(config)
    return model, (), {"input_ids": torch.randint(1, 50, (2, 7))}


def twice_tanh(z: torch.Tensor) -> torch.Tensor:
    """A function that TorchScript can compile."""
    return torch.tanh(z) * 2
