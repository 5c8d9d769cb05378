"""The neck of DepthFormer (HAHI): deformable attention among Swin's levels, and from the stem to them.

Sources: Li et al., "DepthFormer" (2022), section on hierarchical aggregation and heterogeneous interaction; Zhu et al.,
"Deformable DETR" (ICLR 2021) for the attention; Carion et al., "DETR" (ECCV 2020) for the sine positions.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from tiekd_cache.teachers.swin import STAGE_CHANNELS, STEM_CHANNELS

_CHANNELS = 512  # of all vectors that attend to each other
_HEADS = 8
_LEVELS = len(STAGE_CHANNELS)
_POINTS = 8
_TEMPERATURE = 10_000.0


def sine_positions(height: int, width: int, device: torch.device) -> torch.Tensor:
    """[height*width,512] float32: sine and cosine of row (first half) and column, counted from 1, not normalised."""
    features = _CHANNELS // 2
    # in float64 on the way: one value serves every device
    pair = torch.arange(features // 2, device=device, dtype=torch.float64)
    period = _TEMPERATURE ** (2 * pair / features)
    rows, columns = (
        torch.arange(1, size + 1, device=device, dtype=torch.float64)[:, None] / period for size in (height, width)
    )
    rows, columns = (torch.stack((at.sin(), at.cos()), dim=-1).flatten(1) for at in (rows, columns))
    halves = (rows[:, None].expand(-1, width, -1), columns[None].expand(height, -1, -1))
    return torch.cat(halves, dim=-1).reshape(height * width, _CHANNELS).float()


def cell_centres(height: int, width: int, device: torch.device) -> torch.Tensor:
    """[height*width,2] float32: (x, y) of each cell's centre as fractions of width and height."""
    rows, columns = ((torch.arange(size, device=device) + 0.5) / size for size in (height, width))
    return torch.stack((columns.expand(height, -1), rows[:, None].expand(-1, width)), dim=-1).reshape(-1, 2)


class DeformableAttention(nn.Module):
    """Each query reads four levels at eight points each, near its reference point; every head has points of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.sampling_offsets = nn.Linear(_CHANNELS, _HEADS * _LEVELS * _POINTS * 2)
        self.attention_weights = nn.Linear(_CHANNELS, _HEADS * _LEVELS * _POINTS)
        self.value_proj = nn.Linear(_CHANNELS, _CHANNELS)
        self.output_proj = nn.Linear(_CHANNELS, _CHANNELS)

    def forward(
        self, query: torch.Tensor, centres: torch.Tensor, values: torch.Tensor, sizes: Sequence[tuple[int, int]]
    ) -> torch.Tensor:
        """What each query read, [B,Q,512].

        Args:
            query: [B,Q,512], position included.
            centres: [Q,2] or [B,Q,2] float32 reference points (x, y) as fractions of width and height.
            values: [B,P,512], the levels one after another, each row by row.
            sizes: (height, width) of each level.
        """
        batch, queries = query.shape[:2]
        offsets = self.sampling_offsets(query).view(batch, queries, _HEADS, _LEVELS, _POINTS, 2)
        weights = self.attention_weights(query).view(batch, queries, _HEADS, _LEVELS * _POINTS)
        values = self.value_proj(values)
        # half precision cannot tell neighbouring pixels of a wide map apart
        with torch.autocast(query.device.type, enabled=False):
            read = _read(values.float(), centres.float(), offsets.float(), weights.float().softmax(-1), sizes)
        out: torch.Tensor = self.output_proj(read)
        return out


def _read(
    values: torch.Tensor,
    centres: torch.Tensor,
    offsets: torch.Tensor,
    weights: torch.Tensor,
    sizes: Sequence[tuple[int, int]],
) -> torch.Tensor:
    """Weighted sum of the values at the points, [B,Q,512]; `offsets` in cells of their level, zeros outside the map."""
    batch, queries = offsets.shape[:2]
    # [B,heads,levels,points,Q,...]: what one point of all queries needs lies together
    offsets = offsets.permute(0, 2, 3, 4, 1, 5)
    weights = weights.view(batch, queries, _HEADS, _LEVELS, _POINTS).permute(0, 2, 3, 4, 1)
    centres = centres.expand(batch, -1, -1)[:, None]
    total = values.new_zeros(batch * _HEADS, _CHANNELS // _HEADS, queries)
    for level, (part, (height, width)) in enumerate(zip(_parts(values, sizes), sizes, strict=True)):
        planes = part.transpose(1, 2).reshape(batch * _HEADS, _CHANNELS // _HEADS, height, width)
        cells = offsets.new_tensor([width, height])
        # one point at a time: all at once take gigabytes for one KITTI image
        for point in range(_POINTS):
            places = 2 * (centres + offsets[:, :, level, point] / cells) - 1
            grid = places.reshape(batch * _HEADS, 1, queries, 2)
            seen = F.grid_sample(planes, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
            total = total + seen[:, :, 0] * weights[:, :, level, point].reshape(batch * _HEADS, 1, queries)
    return total.view(batch, _CHANNELS, queries).transpose(1, 2)


def _parts(values: torch.Tensor, sizes: Sequence[tuple[int, int]]) -> Sequence[torch.Tensor]:
    """[B,P,C] -> [B,height*width,C] of each level."""
    return torch.split(values, [height * width for height, width in sizes], dim=1)


def _conv(channels_in: int, channels_out: int, kernel: int) -> nn.Sequential:
    """Convolution of the same size, batch norm, ReLU."""
    conv = nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(channels_out), activation=nn.ReLU()))


def _flat(x: torch.Tensor) -> torch.Tensor:
    """[B,C,H,W] -> [B,H*W,C]."""
    return x.flatten(2).transpose(1, 2)


def _map(vectors: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """[B,H*W,C] -> [B,C,H,W]: the inverse of `_flat`."""
    return vectors.transpose(1, 2).reshape(vectors.shape[0], vectors.shape[2], *size)


class HahiNeck(nn.Module):
    """Swin's levels attend to each other, then the stem's map attends to them; shapes stay as they were."""

    def __init__(self) -> None:
        super().__init__()
        self.lateral_convs = nn.ModuleList(_conv(width, width, 1) for width in (STEM_CHANNELS, *STAGE_CHANNELS))
        self.trans_proj = nn.ModuleList(_conv(width, _CHANNELS, 1) for width in STAGE_CHANNELS)
        self.trans_fusion = nn.ModuleList(_conv(width + _CHANNELS, width, 3) for width in STAGE_CHANNELS)
        self.conv_proj = nn.ModuleList([_conv(STEM_CHANNELS, _CHANNELS, 1)])
        self.conv_fusion = nn.ModuleList([_conv(STEM_CHANNELS + _CHANNELS, STEM_CHANNELS, 3)])
        self.level_embed = nn.Parameter(torch.zeros(_LEVELS, _CHANNELS))
        nn.init.normal_(self.level_embed)
        self.reference_points = nn.Linear(_CHANNELS, 2)
        self.self_attn = DeformableAttention()
        self.multi_att = DeformableAttention()

    def forward(self, features: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        """Five maps [B,C,h,w], the stem's first -> five of the same shapes."""
        stem, *levels = [conv(feature) for conv, feature in zip(self.lateral_convs, features, strict=True)]
        sizes = [(level.shape[2], level.shape[3]) for level in levels]
        values = self._levels(levels, sizes)
        fused = [self._stem(stem, values, sizes)]
        for level, part, size, fusion in zip(levels, _parts(values, sizes), sizes, self.trans_fusion, strict=True):
            fused.append(fusion(torch.cat((level, _map(part, size)), dim=1)))
        return fused

    def _levels(self, levels: Sequence[torch.Tensor], sizes: Sequence[tuple[int, int]]) -> torch.Tensor:
        """[B,P,512]: the levels one after another, each position having read all of them."""
        device = levels[0].device
        flat = torch.cat([_flat(conv(level)) for conv, level in zip(self.trans_proj, levels, strict=True)], dim=1)
        positions = [sine_positions(*size, device) + self.level_embed[level] for level, size in enumerate(sizes)]
        centres = torch.cat([cell_centres(*size, device) for size in sizes])
        out: torch.Tensor = flat + self.self_attn(flat + torch.cat(positions), centres, flat, sizes)
        return out

    def _stem(self, stem: torch.Tensor, values: torch.Tensor, sizes: Sequence[tuple[int, int]]) -> torch.Tensor:
        """[B,64,h,w]: the stem's map, having read the levels where its positions point to."""
        size = (stem.shape[2], stem.shape[3])
        flat = _flat(self.conv_proj[0](stem))
        positions = sine_positions(*size, stem.device)
        with torch.autocast(stem.device.type, enabled=False):
            centres = self.reference_points(positions).sigmoid()
        flat = flat + self.multi_att(flat + positions, centres, values, sizes)
        out: torch.Tensor = self.conv_fusion[0](torch.cat((_map(flat, size), stem), dim=1))
        return out
