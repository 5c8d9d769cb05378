"""Students in figures: what `tiekd-cache students` shows.

Errors are those published with TIE-KD (arXiv 2402.14340) on KITTI's Eigen split: rows "TIE-KD" of the students that
answer with a DPM, and "baseline" of those that regress depth. Costs are counted, not stored: see `student_cost`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from tiekd_cache.students.cost import IMAGE_SIZE, student_cost

LEARNT_FROM = ("AdaBins", "BTS", "DepthFormer", "ground truth")
"""What published students were trained on: a teacher's depth, or the LiDAR's."""


class Errors(NamedTuple):
    """Published errors of one student: mean absolute relative error, and root mean squared error in metres."""

    abs_rel: float
    rmse: float


PUBLISHED: Mapping[tuple[str, str], Mapping[str, Errors]] = MappingProxyType(
    {
        ("mobilenetv2", "dpm"): {
            "AdaBins": Errors(0.0654, 2.4315),
            "BTS": Errors(0.0656, 2.4984),
            "DepthFormer": Errors(0.0657, 2.4402),
        },
        ("resnet18", "dpm"): {
            "AdaBins": Errors(0.0628, 2.4029),
            "BTS": Errors(0.0635, 2.4527),
            "DepthFormer": Errors(0.0624, 2.3963),
        },
        ("resnet50", "dpm"): {
            "AdaBins": Errors(0.0597, 2.3060),
            "BTS": Errors(0.0615, 2.4019),
            "DepthFormer": Errors(0.0586, 2.2821),
        },
        ("mobilenetv2", "depth"): {"ground truth": Errors(0.0663, 2.5625)},
        ("resnet18", "depth"): {"ground truth": Errors(0.0634, 2.5311)},
        ("resnet50", "depth"): {"ground truth": Errors(0.0605, 2.4159)},
    }
)
"""(student, output) -> what it learnt from -> its errors; all with the published decoder."""

LISTED: tuple[tuple[str, str, str], ...] = (
    *((name, "densedepth", output) for name, output in PUBLISHED),
    ("resnet18", "slim", "dpm"),
    ("mobilenetv2", "slim", "dpm"),
    ("timm:efficientnet_lite0", "slim", "dpm"),
    ("timm:mobilenetv2_100", "slim", "dpm"),
)
"""(student, decoder, output): the published ones, and examples of lighter ones."""


@dataclass(frozen=True)
class Card:
    """One student.

    Attributes:
        name, decoder, output, decoder_width: as `build_student` takes them.
        parameters: that the depth depends on.
        gmac: 1e9 multiply-adds for one image.
        errors: what it learnt from -> its published errors; empty where none are known.
    """

    name: str
    decoder: str
    output: str
    decoder_width: float
    parameters: int
    gmac: float
    errors: Mapping[str, Errors]

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        errors = {source: error._asdict() for source, error in self.errors.items()}
        return {**vars(self), "errors": errors}


def make_card(
    name: str, decoder: str, output: str, *, decoder_width: float = 1.0, image_size: tuple[int, int] = IMAGE_SIZE
) -> Card:
    """The figures of a student for images of (height, width) pixels; published errors are of the published width.

    Raises:
        ConfigError: see `build_student`.
    """
    cost = student_cost(name, decoder=decoder, output=output, decoder_width=decoder_width, image_size=image_size)
    published = decoder == "densedepth" and decoder_width == 1
    errors = PUBLISHED.get((name, output), {}) if published else {}
    return Card(name, decoder, output, decoder_width, cost.parameters, round(cost.gmac, 4), errors)
