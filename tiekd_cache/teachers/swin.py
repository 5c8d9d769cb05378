"""Swin-L transformer with a convolutional stem beside it: the encoder of DepthFormer.

Sources: Liu et al., "Swin Transformer" (ICCV 2021); Li et al., "DepthFormer" (2022). As published in the depth toolbox:
windows of 7x7 at any size of the map, every second block shifted by 3 even where the map is no larger than a window,
padding before the shift and not masked, and patches merged channel by channel.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

WINDOW = 7
_SHIFT = WINDOW // 2
_EMBEDDING = 192
_DEPTHS = (2, 2, 18, 2)
_HEADS = (6, 12, 24, 48)
STEM_CHANNELS = 64
STAGE_CHANNELS = tuple(_EMBEDDING * 2**stage for stage in range(len(_DEPTHS)))


def relative_position_index() -> torch.Tensor:
    """[49,49] int64: the row of the bias table for each pair of positions in a window; a constant, on the CPU."""
    axis = torch.arange(WINDOW, device="cpu")
    rows, columns = (grid.flatten() for grid in torch.meshgrid(axis, axis, indexing="ij"))
    down, right = (at[:, None] - at[None, :] + WINDOW - 1 for at in (rows, columns))
    return down * (2 * WINDOW - 1) + right


def _windows(x: torch.Tensor) -> torch.Tensor:
    """[B,H,W,C] with H and W multiples of 7 -> [B*windows,49,C], windows row by row."""
    batch, height, width, channels = x.shape
    x = x.view(batch, height // WINDOW, WINDOW, width // WINDOW, WINDOW, channels)
    return x.transpose(2, 3).reshape(-1, WINDOW * WINDOW, channels)


def _map(windows: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The inverse of `_windows`: [B,height,width,C]."""
    x = windows.view(-1, height // WINDOW, width // WINDOW, WINDOW, WINDOW, windows.shape[-1])
    return x.transpose(2, 3).reshape(-1, height, width, windows.shape[-1])


def _padded(pixels: int) -> int:
    return -(-pixels // WINDOW) * WINDOW


def shift_mask(height: int, width: int, device: torch.device) -> torch.Tensor:
    """[windows,49,49]: -100 between positions that only the cyclic shift brought into one window, else 0.

    Args:
        height: of the map, before it is padded to a multiple of 7.
        width: as height.
        device: where the mask goes.
    """
    region = []
    for size in (_padded(height), _padded(width)):
        at = torch.arange(size, device=device)
        region.append((at >= size - WINDOW).long() + (at >= size - _SHIFT).long())
    labels = _windows((3 * region[0][:, None] + region[1][None, :])[None, :, :, None]).squeeze(-1)
    return (labels[:, None, :] != labels[:, :, None]) * -100.0


class WindowAttention(nn.Module):
    """Self attention of the 49 positions of a window, with a learned bias for each offset between two of them."""

    position_index: torch.Tensor

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * WINDOW - 1) ** 2, heads))
        nn.init.normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("position_index", relative_position_index(), persistent=False)

    def forward(self, windows: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """[N,49,C], and [windows of an image,49,49] or None -> [N,49,C]."""
        count, positions, channels = windows.shape
        qkv = self.qkv(windows).view(count, positions, 3, self.heads, channels // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.relative_position_bias_table[self.position_index].permute(2, 0, 1)[None]
        if mask is not None:
            bias = (bias + mask[:, None]).repeat(count // mask.shape[0], 1, 1, 1)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype))
        out: torch.Tensor = self.proj(mixed.transpose(1, 2).reshape(count, positions, channels))
        return out


class _Block(nn.Module):
    """Window attention and a feed-forward network, each after a norm and added to its input."""

    def __init__(self, channels: int, heads: int, shifted: bool) -> None:
        super().__init__()
        self.shifted = shifted
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, heads)
        self.norm2 = nn.LayerNorm(channels)
        self.ffn = nn.Sequential(nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels))

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """[B,H,W,C] and the mask of the shift -> [B,H,W,C]."""
        x = x + self._attention(self.norm1(x), mask)
        out: torch.Tensor = x + self.ffn(self.norm2(x))
        return out

    def _attention(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[1:3]
        x = F.pad(x, (0, 0, 0, _padded(width) - width, 0, _padded(height) - height))
        padded = x.shape[1:3]
        if self.shifted:
            x = torch.roll(x, (-_SHIFT, -_SHIFT), dims=(1, 2))
        x = _map(self.attn(_windows(x), mask if self.shifted else None), *padded)
        if self.shifted:
            x = torch.roll(x, (_SHIFT, _SHIFT), dims=(1, 2))
        return x[:, :height, :width]


class _PatchMerging(nn.Module):
    """Halves the map: four neighbours become one position with twice the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B,H,W,C], H and W even -> [B,H/2,W/2,2C]; the weights expect the four neighbours channel by channel."""
        batch, height, width, channels = x.shape
        x = x.view(batch, height // 2, 2, width // 2, 2, channels).permute(0, 1, 3, 5, 2, 4)
        out: torch.Tensor = self.reduction(self.norm(x.reshape(batch, height // 2, width // 2, 4 * channels)))
        return out


class _Stage(nn.Module):
    """Blocks at one resolution; those with odd number are shifted."""

    def __init__(self, stage: int) -> None:
        super().__init__()
        channels = STAGE_CHANNELS[stage]
        self.blocks = nn.ModuleList(_Block(channels, _HEADS[stage], block % 2 == 1) for block in range(_DEPTHS[stage]))
        self.downsample = nn.Identity() if stage == len(_DEPTHS) - 1 else _PatchMerging(channels)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[B,H,W,C] -> the stage's output [B,H,W,C], and the next stage's input [B,H/2,W/2,2C]."""
        mask = shift_mask(x.shape[1], x.shape[2], x.device)
        for block in self.blocks:
            x = block(x, mask)
        return x, self.downsample(x)


class _PatchEmbedding(nn.Module):
    """Patches of 4x4 pixels as vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.projection = nn.Conv2d(3, _EMBEDDING, 4, stride=4)
        self.norm = nn.LayerNorm(_EMBEDDING)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """[B,3,H,W] -> [B,H/4,W/4,192]."""
        out: torch.Tensor = self.norm(self.projection(images).permute(0, 2, 3, 1))
        return out


class SwinWithStem(nn.Module):
    """Swin-L and a stem of one convolution, side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = _PatchEmbedding()
        self.stages = nn.ModuleList(_Stage(stage) for stage in range(len(_DEPTHS)))
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for channels in STAGE_CHANNELS)
        self.conv1 = nn.Conv2d(3, STEM_CHANNELS, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM_CHANNELS)

    def forward(self, images: torch.Tensor) -> Sequence[torch.Tensor]:
        """[B,3,H,W], H and W multiples of 32 -> the stem's 64 channels at 1/2; 192, 384, 768, 1536 at 1/4 to 1/32."""
        features = [F.relu(self.bn1(self.conv1(images)))]
        x = self.patch_embed(images)
        for stage, norm in zip(self.stages, self.norms, strict=True):
            out, x = stage(x)
            features.append(norm(out).permute(0, 3, 1, 2).contiguous())
        return features
