"""Encoders: timm backbones that give features from fine to coarse, with ImageNet weights where asked for."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import huggingface_hub
import safetensors.torch
import torch
from torch import nn

from tiekd_cache.data.places import default_checkpoints_dir
from tiekd_cache.errors import CheckpointError, first_line
from tiekd_cache.foreign import check_archive
from tiekd_cache.model_hub import why_unreachable
from tiekd_cache.timm_compat import timm_module

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


class Encoder(NamedTuple):
    """A backbone cut after its last feature: the module maps [B,3,H,W] to a list of [B,channels[i],h_i,w_i]."""

    module: nn.Module
    channels: tuple[int, ...]
    strides: tuple[int, ...]  # h_i = H / strides[i]; both fine to coarse

    @classmethod
    def of(cls, module: Any) -> Encoder:
        """Of a network that timm has cut (`features_only`)."""
        return cls(module, tuple(module.feature_info.channels()), tuple(module.feature_info.reduction()))


def build_encoder(model: str, pretrained: bool, options: Mapping[str, Any] | None = None) -> Encoder:
    """A timm backbone.

    Args:
        model: timm's name, with the tag of the weights, e.g. `resnet18.tv_in1k`.
        pretrained: with ImageNet weights: from a file of the model's name in the checkpoints folder (as torchvision's
            `resnet18-f37072fd.pth`), else from the local cache of the model hub, else downloaded.
        options: further arguments of `timm.create_model`.
    Raises:
        CheckpointError: the weights cannot be had; within seconds where there is no network.
    """
    create = functools.partial(timm_module().create_model, model, features_only=True, **(options or {}))
    return Encoder.of(_with_weights(create, model) if pretrained else create(pretrained=False))


def _with_weights(create: Callable[..., nn.Module], model: str) -> nn.Module:
    local = local_weights(model)
    if local is not None:
        return _from_file(create(pretrained=False), model, local)
    known = timm_module().models.get_pretrained_cfg(model)
    if known is None or not known.has_weights:
        raise CheckpointError(
            f"timm has no ImageNet weights of {model}. Train without them: --no-pretrained (pretrained=False)."
        )
    cached = _cached_weights(known.hf_hub_id) if known.hf_hub_id else None
    overlay = {"file": cached} if cached else {}
    unreachable = None if cached else why_unreachable()
    reason = unreachable and f"not in the local cache, and {unreachable}"
    if reason is None:
        try:
            encoder = create(pretrained=True, pretrained_cfg_overlay=overlay)
        except Exception as error:  # of the hub's client, its HTTP library, or the disk: all mean "no weights"
            reason = first_line(error)
        else:
            return encoder
    raise CheckpointError(
        f"ImageNet weights of {model} cannot be had ({reason}). Connect this machine to the network once, "
        "put a file of the backbone's name into the checkpoints folder, or train without them: --no-pretrained "
        "(pretrained=False)."
    )


def local_weights(model: str, folder: Path | None = None) -> Path | None:
    """A file with a backbone's ImageNet weights in the checkpoints folder, for machines without network; or None."""
    folder = default_checkpoints_dir() if folder is None else folder
    name = re.escape(model.partition(".")[0])
    pattern = re.compile(rf"{name}([-_.].*)?\.(pth|pt|bin|safetensors)")
    found = sorted(path for path in folder.glob("*") if pattern.fullmatch(path.name)) if folder.is_dir() else []
    return found[0] if found else None


def _from_file(encoder: nn.Module, model: str, path: Path) -> nn.Module:
    try:
        if path.suffix == ".safetensors":
            state = safetensors.torch.load_file(path)
        else:
            check_archive(path)
            state = torch.load(path, map_location="cpu", weights_only=True)
        missing = encoder.load_state_dict(_renamed(state, encoder), strict=False).missing_keys
    except Exception as error:  # truncated, unsafe, of other shapes: all mean "not these weights"
        raise CheckpointError(
            f"{path} does not hold ImageNet weights of {model} ({first_line(error)}). Remove or replace it."
        ) from None
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    if missing:
        raise CheckpointError(
            f"{path} does not hold ImageNet weights of {model}: {len(missing)} are missing, the first {missing[0]}. "
            "Remove or replace it."
        )
    return encoder


def _renamed(state: Mapping[str, torch.Tensor], encoder: nn.Module) -> dict[str, torch.Tensor]:
    """Under the encoder's own names: timm's cut networks say `stages_0.…` for `stages.0.…`."""
    own = {name.replace(".", "_"): name for name in encoder.state_dict()}
    return {own.get(name.replace(".", "_"), name): value for name, value in state.items()}


def _cached_weights(hub_id: str) -> str | None:
    """Path of the weights in the hub's local cache, or None."""
    for name in WEIGHT_FILES:
        found = huggingface_hub.try_to_load_from_cache(hub_id, name)
        if isinstance(found, str):
            return found
    return None
