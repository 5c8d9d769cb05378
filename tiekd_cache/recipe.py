"""A recipe: one experiment, both stages, in one TOML file that lists only departures from the defaults."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tiekd_cache.config import apply_overrides, from_mapping, read_toml
from tiekd_cache.data.places import default_store_path
from tiekd_cache.data.transforms import Augmentation
from tiekd_cache.distill_config import DistillConfig, OptimiserConfig, StudentConfig, TeachersConfig, TrainConfig
from tiekd_cache.errors import ConfigError
from tiekd_cache.evaluate import EvaluateConfig
from tiekd_cache.losses.loss_config import LossConfig
from tiekd_cache.precompute import PrecomputeConfig
from tiekd_cache.store.objects import store_place


@dataclass(frozen=True)
class SyntheticData:
    """Made-up street scenes instead of the real data.

    Attributes:
        train_frames: frames of the training split.
        test_frames: frames of the test split, from streets of their own.
        seed: which world.
    """

    train_frames: int = 24
    test_frames: int = 8
    seed: int = 0


@dataclass(frozen=True)
class DataSection:
    """Where the frames come from.

    Attributes:
        kitti: folder of the data; None = $TIEKD_KITTI or data/kitti, or OUT/kitti for synthetic data.
        nyu: NYU Depth v2 instead: the labelled file, or a folder.
        split: training split; None = the usual file beside the data.
        test_split: the same for evaluation.
        skip_missing: go on without frames whose files are missing.
        synthetic: make the data up.
    """

    kitti: str | None = None
    nyu: str | None = None
    split: str | None = None
    test_split: str | None = None
    skip_missing: bool = False
    synthetic: SyntheticData | None = None

    def __post_init__(self) -> None:
        if self.nyu is not None and (self.kitti is not None or self.synthetic is not None):
            raise ConfigError("data.nyu goes neither with data.kitti nor with data.synthetic: name one.")


@dataclass(frozen=True)
class TeacherSection:
    """Which teacher.

    Attributes:
        name: e.g. `bts`.
        weights: checkpoint or `random:SEED`; None = found under checkpoints/.
        store: folder or bucket (s3://, gs://, az://) that its responses go to; None = OUT/TEACHER.zarr.
        trained_on: `kitti` or `nyu`: the data set whose depth range the weights were trained for.
        align: `gt` fits a relative model to each frame's LiDAR depth; None for metric teachers.
        further_stores: stores of other teachers, made before, that the student learns from as well.
    """

    name: str = "bts"
    weights: str | None = None
    store: str | None = None
    trained_on: str = "kitti"
    align: str | None = None
    further_stores: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for place in (self.store or "", *self.further_stores):
            store_place(place)  # raises ConfigError here, and not when the teacher is loaded


@dataclass(frozen=True)
class Recipe:
    """One experiment.

    Attributes:
        out: folder of everything it makes.
        device: cpu, cuda, auto.
        baselines: also evaluate the untrained student, and the mean of the teacher's responses as one number.
    """

    out: str
    device: str = "auto"
    baselines: bool = False
    data: DataSection = field(default_factory=DataSection)
    teacher: TeacherSection = field(default_factory=TeacherSection)
    precompute: PrecomputeConfig = field(default_factory=PrecomputeConfig)
    student: StudentConfig = field(default_factory=StudentConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    augmentation: Augmentation = field(default_factory=Augmentation)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    teachers: TeachersConfig = field(default_factory=TeachersConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)

    @property
    def distill(self) -> DistillConfig:
        """The settings of stage two."""
        return DistillConfig(self.student, self.loss, self.augmentation, self.optimiser, self.train, self.teachers)

    @property
    def kitti_root(self) -> Path | None:
        """Folder of the data, or None for the default place."""
        if self.data.kitti is not None:
            return Path(self.data.kitti)
        return Path(self.out) / "kitti" if self.data.synthetic is not None else None

    @property
    def store_paths(self) -> list[str | Path]:
        """Every store that the student learns from, the recipe's own first."""
        return [self.store_path, *map(store_place, self.teacher.further_stores)]

    @property
    def store_path(self) -> str | Path:
        """Where the teacher's responses are: a folder, or a bucket's URL."""
        if self.teacher.store is not None:
            return store_place(self.teacher.store)
        return default_store_path(self.teacher.name, Path(self.out))


def read_recipe(path: Path, overrides: tuple[str, ...] = ()) -> Recipe:
    """The recipe of a TOML file; `out` defaults to runs/<name of the file>.

    Raises:
        ConfigError: the file is absent or malformed, or a setting unknown; names it.
    """
    mapping = read_toml(path)
    mapping.setdefault("out", str(Path("runs") / path.stem))
    apply_overrides(mapping, overrides)
    return from_mapping(Recipe, mapping)
