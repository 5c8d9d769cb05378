"""Small models with random weights of each family that `transformers` has, saved as the hub's folders are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tiekd_cache.timm_compat import timm_module

FAMILIES = ("depth_anything_metric", "depth_anything", "dpt", "glpn", "zoedepth", "depth_pro")


def save_model(family: str, folder: Path) -> Path:
    """Writes one of `FAMILIES` with its image processor; the same weights every time. Returns the folder."""
    timm_module()
    model, processor = _BUILD[family]()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # as initialised they would say the same everywhere
            if parameter.ndim > 1 and "position" not in name:
                parameter.normal_(0.0, 1.2 / parameter[0].numel() ** 0.5, generator=generator)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _depth_anything(kind: str) -> tuple[Any, Any]:
    import transformers as hf

    backbone = hf.Dinov2Config(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, image_size=28, mlp_ratio=2,
        out_indices=[1, 2, 3, 4], apply_layernorm=True, reshape_hidden_states=False,
    )  # fmt: skip
    config = hf.DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=16, neck_hidden_sizes=[4, 8, 8, 8], fusion_hidden_size=8,
        head_hidden_size=4, depth_estimation_type=kind, max_depth=60 if kind == "metric" else 1,
    )  # fmt: skip
    return hf.DepthAnythingForDepthEstimation(config), hf.DPTImageProcessor(
        size={"height": 56, "width": 56}, keep_aspect_ratio=True, ensure_multiple_of=14
    )


def _dpt() -> tuple[Any, Any]:
    import transformers as hf

    config = hf.DPTConfig(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8,
        backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[4, 8, 8, 8], fusion_hidden_size=8, is_hybrid=False,
    )  # fmt: skip
    return hf.DPTForDepthEstimation(config), hf.DPTImageProcessor(size={"height": 32, "width": 32})


def _glpn() -> tuple[Any, Any]:
    import transformers as hf

    config = hf.GLPNConfig(
        depths=[1, 1, 1, 1], hidden_sizes=[8, 8, 16, 16], num_attention_heads=[1, 1, 2, 2], decoder_hidden_size=8,
        max_depth=80,
    )  # fmt: skip
    return hf.GLPNForDepthEstimation(config), hf.GLPNImageProcessor()


def _zoedepth() -> tuple[Any, Any]:
    import transformers as hf

    backbone = hf.BeitConfig(
        image_size=32, patch_size=8, hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32,
        out_indices=[1, 2, 3, 4], reshape_hidden_states=False, add_fpn=False, use_relative_position_bias=True,
    )  # fmt: skip
    config = hf.ZoeDepthConfig(
        backbone_config=backbone, neck_hidden_sizes=[4, 8, 8, 8], fusion_hidden_size=8, num_relative_features=4,
        bottleneck_features=8, bin_embedding_dim=8, num_attractors=[4, 2, 2, 1],
        bin_configurations=[{"n_bins": 8, "min_depth": 1e-3, "max_depth": 70.0, "name": "kitti"}],
    )  # fmt: skip
    return hf.ZoeDepthForDepthEstimation(config), hf.ZoeDepthImageProcessor(
        size={"height": 32, "width": 48}, ensure_multiple_of=8
    )


def _depth_pro() -> tuple[Any, Any]:
    import transformers as hf

    encoder = {
        "model_type": "dinov2", "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 16,
        "patch_size": 4, "mlp_ratio": 2,
    }  # fmt: skip
    config = hf.DepthProConfig(
        patch_size=16, image_model_config=encoder, patch_model_config=encoder, fov_model_config=encoder,
        intermediate_hook_ids=[3, 1], intermediate_feature_dims=[8, 8], scaled_images_ratios=[0.25, 0.5, 1],
        scaled_images_overlap_ratios=[0.0, 0.5, 0.25], scaled_images_feature_dims=[8, 8, 8], fusion_hidden_size=8,
        merge_padding_value=1, use_fov_model=True, num_fov_head_layers=1,
    )  # fmt: skip
    return hf.DepthProForDepthEstimation(config), hf.DepthProImageProcessor(size={"height": 64, "width": 64})


_BUILD: dict[str, Callable[[], tuple[Any, Any]]] = {
    "depth_anything_metric": lambda: _depth_anything("metric"),
    "depth_anything": lambda: _depth_anything("relative"),
    "dpt": _dpt,
    "glpn": _glpn,
    "zoedepth": _zoedepth,
    "depth_pro": _depth_pro,
}
