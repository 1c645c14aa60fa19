"""Nucleotide Transformer v2: a rotary, pre-normalized, gated encoder over 6-mer tokens.

Dalla-Torre et al. 2024, doi 10.1038/s41592-024-02523-z. Parameters are named as in the published
checkpoints and registered in their order, tensors that the forward pass never reads included.

Axes: B sequences, T tokens, H width, N heads, D width of a head, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import get_type_hints

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpuwork.backbones.checkpoint_files import ABSENT, CheckpointError, read_config
from gpuwork.registry import Backbone

_MASKED_IN_TRAINING = 0.15 * 0.8
"""Share of <mask> among the tokens that token dropout assumes (ESM's training)."""

_TABLE_STEP = 128
"""Rotary tables are made for multiples of this many tokens: few, for batches of any length."""

_FIXED: dict[str, tuple[object, ...]] = {
    "position_embedding_type": ("rotary",),
    "hidden_dropout_prob": (0.0,),
    "attention_probs_dropout_prob": (0.0,),
    "is_folding_model": (False, None, ABSENT),
    "esmfold_config": (None, ABSENT),
    "is_decoder": (False, None, ABSENT),
    "add_cross_attention": (False, None, ABSENT),
}
"""Further fields of config.json that change the arithmetic, with the values implemented here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The fields of the published config.json that shape the model, under their published names.

    Attributes
    ----------
    intermediate_size
        One half of the gated feed-forward.
    max_position_embeddings
        Rows of the position table, which is in the checkpoint and never read.
    token_dropout
        Zero the <mask> embeddings and rescale the others.
    """

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    mask_token_id: int
    pad_token_id: int
    layer_norm_eps: float = 1e-12
    add_bias_fnn: bool = False
    emb_layer_norm_before: bool = False
    token_dropout: bool = False
    tie_word_embeddings: bool = False

    def __post_init__(self) -> None:
        if self.hidden_size % (2 * self.num_attention_heads):
            raise CheckpointError(
                f"hidden_size {self.hidden_size} does not divide into {self.num_attention_heads} "
                "heads of even width"
            )

    @staticmethod
    def read(path: Path) -> Config:
        """Read a config.json; fields without effect on the arithmetic are passed over.

        Raises
        ------
        CheckpointError
            A field is missing, or its value is one that is not implemented.
        """
        return Config(**read_config(path, kinds=get_type_hints(Config), fixed=_FIXED))

    @staticmethod
    def from_row(row: Backbone) -> Config:
        """The configuration that a row of the registry stands for."""
        return Config(
            vocab_size=row.vocabulary,
            hidden_size=row.width,
            num_hidden_layers=row.layers,
            num_attention_heads=row.heads,
            intermediate_size=row.inner_width,
            max_position_embeddings=row.positions,
            mask_token_id=row.mask_id,
            pad_token_id=row.pad_id,
            tie_word_embeddings=row.tied_decoder,
        )

    def published(self) -> dict[str, object]:
        """What to write as config.json; `read` undoes it."""
        return {name: values[0] for name, values in _FIXED.items()} | asdict(self)


class NucleotideTransformer(nn.Module):
    """Encoder and masked-language head. New weights are as `initialize` makes them.

    Plain `nn.Linear` layers throughout, so that adapters can be put on any of them.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        votes = config.num_hidden_layers * config.num_attention_heads
        contact_head = nn.ModuleDict({"regression": nn.Linear(votes, 1)})
        self.esm = nn.ModuleDict(
            {
                "embeddings": _Embeddings(config),
                "encoder": _Encoder(config),
                "contact_head": contact_head,
            }
        )
        self.lm_head = nn.ModuleDict(
            {
                "dense": nn.Linear(width, width),
                "layer_norm": nn.LayerNorm(width, eps=config.layer_norm_eps),
                "decoder": nn.Linear(width, config.vocab_size, bias=False),
            }
        )
        self.lm_head.bias = nn.Parameter(torch.zeros(config.vocab_size))
        if config.tie_word_embeddings:
            embeddings = self.get_parameter("esm.embeddings.word_embeddings.weight")
            self.lm_head["decoder"].weight = embeddings
        initialize(self)

    @staticmethod
    def from_row(row: Backbone) -> NucleotideTransformer:
        """A fresh model of the shape that a row of the registry describes."""
        return NucleotideTransformer(Config.from_row(row))

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Last hidden states (B, T, H). The language head is left out.

        Parameters
        ----------
        input_ids
            (B, T) integers.
        attention_mask
            (B, T), true or 1 where a token is real. None: every token is, and the fastest
            attention kernels can run. Outputs at padding are finite and mean nothing.
        """
        mask = None if attention_mask is None else attention_mask.bool()
        embedded = self.esm["embeddings"](input_ids, mask)
        hidden: Tensor = self.esm["encoder"](embedded, mask)
        return hidden

    def masked_language_logits(self, hidden: Tensor) -> Tensor:
        """Logits (..., V) over the token at each place, from last hidden states (..., H)."""
        inner = self.lm_head["layer_norm"](F.gelu(self.lm_head["dense"](hidden)))
        logits: Tensor = self.lm_head["decoder"](inner) + self.lm_head.bias
        return logits

    def unused_tensors(self) -> frozenset[str]:
        """Names of the parameters that never act: a checkpoint may lack them."""
        unused = ("esm.embeddings.position_embeddings.", "esm.contact_head.")
        return frozenset(name for name, _ in self.named_parameters() if name.startswith(unused))

    def constants(self) -> dict[str, Tensor]:
        """Tensors of a checkpoint that are no parameters, by name: they must hold these values."""
        config = self.config
        name = "esm.encoder.layer.{}.attention.self.rotary_embeddings.inv_freq"
        frequencies = _inverse_frequencies(config.hidden_size // config.num_attention_heads)
        return {name.format(i): frequencies.clone() for i in range(config.num_hidden_layers)}


def initialize(module: nn.Module, *, generator: torch.Generator | None = None) -> None:
    """Give every layer in `module` a fresh start, in place.

    Linear and Embedding weights ~ N(0, 0.02), biases 0, LayerNorm 1 and 0: the published
    initializer_range, and the random start of Berman et al. 2025.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, mean=0.0, std=0.02, generator=generator)
        if isinstance(part, nn.LayerNorm):
            nn.init.ones_(part.weight)
        if isinstance(part, nn.Linear | nn.LayerNorm) and part.bias is not None:
            nn.init.zeros_(part.bias)


class _Embeddings(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.mask_token_id = config.mask_token_id if config.token_dropout else None
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.layer_norm: nn.LayerNorm | None = None
        if config.emb_layer_norm_before:
            self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        """Embeddings (B, T, H), zero at padding."""
        x: Tensor = self.word_embeddings(ids)
        if self.mask_token_id is not None:
            masked = ids == self.mask_token_id
            length = ids.shape[1] if mask is None else mask.sum(dim=1).clamp(min=1)
            # float32 whatever the model computes in, as in the published code
            kept = 1.0 - masked.sum(dim=1).float() / length
            x = x.masked_fill(masked.unsqueeze(-1), 0.0)
            x = (x * (1.0 - _MASKED_IN_TRAINING) / kept[:, None, None]).to(x.dtype)
        if self.layer_norm is not None:
            x = self.layer_norm(x)
        return x if mask is None else x * mask.unsqueeze(-1)


class _Encoder(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.head_width = config.hidden_size // config.num_attention_heads
        self.layer = nn.ModuleList(_Layer(config) for _ in range(config.num_hidden_layers))
        self.emb_layer_norm_after = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map embeddings (B, T, H) to last hidden states (B, T, H)."""
        tokens = x.shape[1]
        cos, sin = _rotary_table(
            math.ceil(tokens / _TABLE_STEP) * _TABLE_STEP,
            head_width=self.head_width,
            dtype=torch.promote_types(x.dtype, torch.float32),
            device=x.device,
        )
        turn = cos[:tokens], sin[:tokens]
        keys = None
        if mask is not None:
            # A row of padding alone would be a softmax over nothing: let it see all of itself.
            keys = (mask | ~mask.any(dim=1, keepdim=True))[:, None, None, :]  # (B, 1, 1, T)
        for layer in self.layer:
            x = layer(x, keys, turn)
        hidden: Tensor = self.emb_layer_norm_after(x)
        return hidden


class _Layer(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        width, inner, bias = config.hidden_size, config.intermediate_size, config.add_bias_fnn
        self.attention = _Attention(config)
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, 2 * inner, bias=bias)})
        self.output = nn.ModuleDict({"dense": nn.Linear(inner, width, bias=bias)})
        self.LayerNorm = nn.LayerNorm(width, eps=config.layer_norm_eps)

    def forward(self, x: Tensor, keys: Tensor | None, turn: tuple[Tensor, Tensor]) -> Tensor:
        """Residual stream (B, T, H) after attention and gated feed-forward."""
        x = x + self.attention(x, keys, turn)
        gate, value = self.intermediate["dense"](self.LayerNorm(x)).chunk(2, dim=-1)
        stream: Tensor = x + self.output["dense"](F.silu(gate) * value)
        return stream


class _Attention(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.self = nn.ModuleDict({n: nn.Linear(width, width) for n in ("query", "key", "value")})
        self.output = nn.ModuleDict({"dense": nn.Linear(width, width)})
        self.LayerNorm = nn.LayerNorm(width, eps=config.layer_norm_eps)

    def forward(self, x: Tensor, keys: Tensor | None, turn: tuple[Tensor, Tensor]) -> Tensor:
        """What the attention adds to the residual stream: (B, T, H)."""
        normed = self.LayerNorm(x)
        query, key, value = (
            self.self[name](normed).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for name in ("query", "key", "value")
        )  # each (B, N, T, D)
        mixed = F.scaled_dot_product_attention(
            _rotate(query, turn), _rotate(key, turn), value, attn_mask=keys
        )
        added: Tensor = self.output["dense"](mixed.transpose(1, 2).flatten(2))
        return added


def _rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary position embedding (Su et al. 2021) of (B, N, T, D), dimensions j and j + D/2 paired.

    The tables may be wider than `x` (autocast): the product is rounded once, at the end.
    """
    cos, sin = turn
    first, second = x.chunk(2, dim=-1)
    return (x * cos + torch.cat((-second, first), dim=-1) * sin).to(x.dtype)


def _inverse_frequencies(head_width: int) -> Tensor:
    """10000^(-2j/D) for j in 0 .. D/2 - 1, in float32 on the CPU: as stored in the checkpoints."""
    powers = torch.arange(0, head_width, 2, dtype=torch.float32, device="cpu") / head_width
    return 1.0 / 10000.0**powers


@lru_cache(maxsize=64)
@torch.inference_mode(mode=False)
def _rotary_table(
    tokens: int, *, head_width: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Cosines and sines (T, D) for positions 0 .. T-1, the same on every device.

    The frequencies are rounded to float32 whatever `dtype` is, as in the published code.
    """
    positions = torch.arange(tokens, dtype=dtype, device="cpu")
    angles = positions[:, None] * _inverse_frequencies(head_width).to(dtype)
    both = torch.cat((angles, angles), dim=-1)
    return both.cos().to(device), both.sin().to(device)
