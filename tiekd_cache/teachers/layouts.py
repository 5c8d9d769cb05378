"""The layouts in which depth networks have been published, and which of them a state dictionary has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Layout:
    """How one kind of published file names a network's tensors.

    Attributes:
        name: our name of the network, e.g. `bts_densenet161`.
        title: the same for people.
        signature: keys that this layout has, with their shape (None: any); the first layout whose keys all match wins.
        teacher: the teacher's name that loads it, None where no teacher here does.
        renames: (regular expression, replacement) pairs, applied in order, that turn its keys into ours.
        dead: regular expression of the keys, after renaming, that have no influence on the depth and are dropped.
    """

    name: str
    title: str
    signature: Mapping[str, tuple[int, ...] | None]
    teacher: str | None = None
    renames: tuple[tuple[str, str], ...] = ()
    dead: str = r"(?!)"


BTS_DENSENET161 = Layout(
    name="bts_densenet161",
    title="BTS with DenseNet-161",
    teacher="bts-densenet161",
    signature={
        "decoder.upconv5.conv.weight": (512, 2208, 3, 3),
        "decoder.conv5.0.weight": (512, 896, 3, 3),
        "encoder.base_model.conv0.weight": (96, 3, 7, 7),
    },
    dead=r"encoder\.base_model\.classifier\..*",
)
BTS_RESNET50 = Layout(
    name="bts_resnet50",
    title="BTS with ResNet-50",
    teacher="bts-resnet50",
    signature={
        "decoder.upconv5.conv.weight": (512, 2048, 3, 3),
        "encoder.base_model.layer1.0.conv1.weight": (64, 64, 1, 1),
    },
    dead=r"encoder\.base_model\.fc\..*",
)
BTS_TOOLBOX = Layout(
    name="bts_toolbox",
    title="BTS with ResNet-50 in the depth toolbox's layout",
    teacher="bts-toolbox",
    signature={"backbone.conv1.weight": None, "decode_head.reduc8x8.reduc.plane_params.weight": None},
    renames=(
        (r"^backbone\.", "encoder.base_model."),
        (r"^decode_head\.conv_depth\.", "decoder.get_depth.0."),
        (r"^decode_head\.", "decoder."),
    ),
)
_ADABINS_DEAD = r"encoder\.original_model\.bn2\..*"  # after the last convolution, whose plain output is used
ADABINS = Layout(
    name="adabins",
    title="AdaBins in its authors' layout",
    teacher="adabins",
    signature={"adaptive_bins_layer.regressor.0.weight": None, "decoder.conv2.weight": None},
    renames=(  # names of the published files, which the authors' code changes on loading
        (r"^adaptive_bins_layer\.embedding_conv\.", "adaptive_bins_layer.conv3x3."),
        (r"\.patch_transformer\.embedding_encoder\.", ".patch_transformer.embedding_convPxP."),
    ),
    dead=_ADABINS_DEAD,
)
ADABINS_TOOLBOX = Layout(
    name="adabins_toolbox",
    title="AdaBins in the depth toolbox's layout",
    teacher="adabins-toolbox",
    signature={"decode_head.adaptive_bins_layer.regressor.0.weight": None},
    renames=(
        (r"^backbone\.", "encoder."),
        (r"^decode_head\.(adaptive_bins_layer|conv_out)\.", r"\1."),
        (r"^decode_head\.conv_list\.0\.conv\.", "decoder.conv2."),
        (r"^decode_head\.conv_list\.(\d)\.convA\.conv\.", r"decoder.up\1._net.0."),
        (r"^decode_head\.conv_list\.(\d)\.convA\.bn\.", r"decoder.up\1._net.1."),
        (r"^decode_head\.conv_list\.(\d)\.convB\.conv\.", r"decoder.up\1._net.3."),
        (r"^decode_head\.conv_list\.(\d)\.convB\.bn\.", r"decoder.up\1._net.4."),
        (r"^decode_head\.decode_final_conv\.", "decoder.conv3."),
    ),
    dead=rf"{_ADABINS_DEAD}|decode_head\.conv_depth\..*",
)
DEPTHFORMER = Layout(
    name="tiekd_depthformer_swinl",
    title="DepthFormer with Swin-L in the depth toolbox's layout",
    teacher="depthformer",
    signature={
        "neck.level_embed": (4, 512),
        "backbone.norm3.weight": (1536,),
        "decode_head.conv_depth.weight": (1, 64, 3, 3),
    },
    renames=(
        (r"^backbone\.norm(\d)\.", r"backbone.norms.\1."),
        (r"\.attn\.w_msa\.", ".attn."),
        (r"\.ffn\.layers\.0\.0\.", ".ffn.0."),
        (r"\.ffn\.layers\.1\.", ".ffn.2."),
        (r"(\.conv_list\..*)\.conv\.", r"\1."),
    ),
    dead=r"decode_head\.conv_out\.0\..*|.*\.relative_position_index",  # the second is a constant
)
_DEEPER_RESNET = Layout(
    name="bts_other",
    title="BTS with a deeper ResNet (only ResNet-50 and DenseNet-161 are supported)",
    signature={"decoder.upconv5.conv.weight": None, "encoder.base_model.layer3.6.conv1.weight": None},
)
_OTHERS = (
    Layout(
        name="bts_other",
        title="BTS with another encoder (only DenseNet-161 and ResNet-50 are supported)",
        signature={"decoder.upconv5.conv.weight": None, "decoder.reduc8x8.reduc.plane_params.weight": None},
    ),
    Layout(
        name="depthformer_other",
        title="DepthFormer with another encoder (only Swin-L is supported)",
        signature={"neck.level_embed": None, "decode_head.conv_depth.weight": None},
    ),
    Layout(
        name="tiekd_student",
        title="a student or baseline of TIE-KD, not a teacher",
        signature={"decode_head.conv_out.0.weight": None, "decode_head.upsample_custom.convA.conv.weight": None},
    ),
    Layout(
        name="densenet",
        title="a DenseNet classifier without a depth decoder",
        signature={"features.conv0.weight": None, "classifier.weight": None},
    ),
    Layout(
        name="resnet",
        title="a ResNet classifier without a depth decoder",
        signature={"layer4.0.conv1.weight": None, "fc.weight": None},
    ),
)
LAYOUTS = (
    *(_DEEPER_RESNET, BTS_DENSENET161, BTS_RESNET50, BTS_TOOLBOX, ADABINS, ADABINS_TOOLBOX, DEPTHFORMER),
    *_OTHERS,
)


def recognise(state: Mapping[str, torch.Tensor]) -> Layout | None:
    """The first published layout whose signature a state dictionary has, None where there is none."""
    for layout in LAYOUTS:
        if all(
            key in state and (shape is None or tuple(state[key].shape) == shape)
            for key, shape in layout.signature.items()
        ):
            return layout
    return None
