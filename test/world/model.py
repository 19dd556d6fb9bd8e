"""A llama-architecture network that can be read and patched at every layer.

Levels count the places of the residual stream: 0 is the input of block 0 (`embed`),
level l + 1 is the output of block l.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

WIDTH, HIDDEN, HEADS, LAYERS, CONTEXT = 128, 256, 4, 6, 256
ROPE_BASE, NORM_EPSILON = 10000.0, 1e-5
LEVELS = LAYERS + 1


@dataclass(frozen=True)
class Patch:
    """Row r gets states[r] at positions[r], in place of the residual at levels[r]."""

    states: torch.Tensor  # (rows, WIDTH)
    positions: torch.Tensor  # (rows,)
    levels: torch.Tensor  # (rows,)

    def apply(self, hidden, level):
        place = torch.arange(hidden.shape[1]) == self.positions[:, None]
        chosen = place & (self.levels == level)[:, None]
        return torch.where(chosen[:, :, None], self.states[:, None, :], hidden)


class Norm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))

    def forward(self, hidden):
        return F.rms_norm(hidden, (WIDTH,), self.weight, NORM_EPSILON)


def matrix(inputs, outputs):
    return nn.Linear(inputs, outputs, bias=False)


class Block(nn.Module):
    """Attribute names are the tensor names of the GGUF file."""

    def __init__(self):
        super().__init__()
        self.attn_norm, self.ffn_norm = Norm(), Norm()
        self.attn_q, self.attn_k, self.attn_v, self.attn_output = (matrix(WIDTH, WIDTH) for _ in range(4))
        self.ffn_gate, self.ffn_up, self.ffn_down = matrix(WIDTH, HIDDEN), matrix(WIDTH, HIDDEN), matrix(HIDDEN, WIDTH)

    def forward(self, hidden, mask):
        hidden = hidden + self.attention(self.attn_norm(hidden), mask)
        normed = self.ffn_norm(hidden)
        return hidden + self.ffn_down(F.silu(self.ffn_gate(normed)) * self.ffn_up(normed))

    def attention(self, hidden, mask):
        rows, length, _ = hidden.shape
        query, key, value = (project(hidden).view(rows, length, HEADS, -1).transpose(1, 2)
                             for project in (self.attn_q, self.attn_k, self.attn_v))
        mixed = F.scaled_dot_product_attention(rotate(query), rotate(key), value, attn_mask=mask)
        return self.attn_output(mixed.transpose(1, 2).reshape(rows, length, WIDTH))


def rotate(heads):
    """RoPE on neighbouring pairs, llama.cpp's layout, so that Q and K rows are written as they are."""
    length, size = heads.shape[-2:]
    frequency = ROPE_BASE ** (-torch.arange(0, size, 2) / size)
    angle = torch.arange(length)[:, None] * frequency
    cos, sin = angle.cos(), angle.sin()
    even, odd = heads[..., 0::2], heads[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


class Model(nn.Module):
    def __init__(self, vocabulary):
        super().__init__()
        self.token_embd = nn.Embedding(vocabulary, WIDTH)
        self.blk = nn.ModuleList(Block() for _ in range(LAYERS))
        self.output_norm = Norm()
        self.start()

    def start(self):
        """Wide embeddings matter: from a deviation of 0.02 the facts are not learnt within the steps given."""
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                embedding = name == "token_embd.weight"
                nn.init.normal_(parameter, std=0.1 if embedding else 0.7 / parameter.shape[1] ** 0.5)

    def states(self, tokens, mask=None, patch=None):
        """The residual at every level: a list of LEVELS tensors (rows, length, WIDTH)."""
        mask = causal(tokens.shape[1]) if mask is None else mask[:, None]
        hidden = self.token_embd(tokens)
        levels = []
        for level in range(LEVELS):
            hidden = self.blk[level - 1](hidden, mask) if level else hidden
            hidden = patch.apply(hidden, level) if patch else hidden
            levels.append(hidden)
        return levels

    def logits(self, hidden):
        return self.output_norm(hidden) @ self.token_embd.weight.T

    def forward(self, tokens, mask=None, patch=None):
        return self.logits(self.states(tokens, mask, patch)[-1])


def causal(length):
    return torch.ones(length, length, dtype=torch.bool).tril()


def pad(sequences):
    """Pads on the right, where causal attention never looks; also gives the last position of each."""
    length = max(map(len, sequences))
    padded = [ids + [0] * (length - len(ids)) for ids in sequences]
    return torch.tensor(padded), torch.tensor([len(ids) - 1 for ids in sequences])
