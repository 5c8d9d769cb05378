"""Loads depth models of the Hugging Face hub, or of a local folder; never runs code that comes with them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import torch

from tiekd_cache.errors import CheckpointError, ConfigError
from tiekd_cache.foreign import fits_in_file
from tiekd_cache.model_hub import why_unreachable
from tiekd_cache.teachers.huggingface import HuggingFaceTeacher
from tiekd_cache.timm_compat import timm_module

PREFIX = "hf:"
"""Begins the names of these teachers: `hf:ORG/NAME`, or `hf:FOLDER`."""

FAMILIES = ("depth_anything", "depth_pro", "dpt", "glpn", "zoedepth")
"""Kinds of model (`model_type` of their configuration) whose output is understood."""


def load_huggingface(
    name: str, weights: str | Path | None, device: torch.device, align: str | None, max_depth: float
) -> HuggingFaceTeacher:
    """The teacher called `hf:ORG/NAME` (from the hub, or its local cache where the hub does not answer) or `hf:FOLDER`.

    Code out of a model's repository never runs: neither its own modules (`trust_remote_code`) nor pickled objects.

    Args:
        name: with its prefix.
        weights: must be None: the model names its own.
        align: `gt`, or None.
        max_depth: metres; farthest depth of an aligned map.
    Raises:
        ConfigError: transformers is not installed; a relative model without alignment, or a metric one with it.
        CheckpointError: the model cannot be fetched or loaded, or its output is not understood.
    """
    model_id = name.removeprefix(PREFIX)
    if weights is not None:
        raise CheckpointError(f"Teacher {name} brings its own weights, but got {weights}. Leave --weights out.")
    transformers = _transformers()
    folder = Path(model_id)
    local = folder.is_dir()
    if not local and (model_id.count("/") != 1 or model_id.startswith((".", "/"))):
        raise CheckpointError(f"No folder {model_id}. Name a model of the hub as hf:ORG/NAME, a folder as hf:./FOLDER.")
    unreachable = None if local else why_unreachable()
    options = {"trust_remote_code": False, "local_files_only": unreachable is not None}
    with _in_one_line(model_id, local, unreachable), _quiet(transformers, local):
        config = transformers.AutoConfig.from_pretrained(model_id, **options)
    _check_use(name, config, align)
    if local:
        _check_size(transformers, config, folder)
    with _in_one_line(model_id, local, unreachable), _quiet(transformers, local):
        processor = transformers.AutoImageProcessor.from_pretrained(model_id, **options, **_pil_backend(transformers))
        model, report = transformers.AutoModelForDepthEstimation.from_pretrained(
            model_id, config=config, weights_only=True, output_loading_info=True, **options
        )
    absent = sorted(report["missing_keys"]) + [str(key) for key in report["mismatched_keys"]]
    if absent:
        raise CheckpointError(
            f"The weights of {name} lack {len(absent)} tensors of {type(model).__name__} or have them in another shape "
            f"({absent[0]}{', …' if absent[1:] else ''}). Fetch the model again, or choose another."
        )
    revision = None if local else _cached_revision(model_id)
    known_as = folder.resolve().name if local else model_id
    return HuggingFaceTeacher(
        model,
        processor,
        name=PREFIX + known_as,
        weights_source=f"{known_as}@{revision}" if revision else known_as,
        device=device,
        align=max_depth if align else None,
    )


def _cached_revision(model_id: str) -> str | None:
    """The commit of a model that was just loaded, as the folder in the hub's cache is called; None where it is not."""
    config = huggingface_hub.try_to_load_from_cache(model_id, "config.json")
    return Path(config).parent.name if isinstance(config, str) else None


def _check_size(transformers: Any, config: Any, folder: Path) -> None:
    """Raise CheckpointError where a folder's configuration declares far more weights than its files hold.

    Loading makes those that are missing up. A network that cannot be made without memory is not looked at.
    """
    try:
        with torch.device("meta"):
            empty = transformers.AutoModelForDepthEstimation.from_config(config)
    except Exception:  # of its constructor: loading says what is wrong
        return
    needed = sum(tensor.numel() * tensor.element_size() for tensor in empty.parameters())
    there = sum(file.stat().st_size for file in folder.iterdir() if file.suffix in (".safetensors", ".bin"))
    if not fits_in_file(needed, there):
        raise CheckpointError(
            f"Folder {folder} declares a model of {needed} bytes, and holds {there} bytes of weights: do not use it."
        )


def _check_use(name: str, config: Any, align: str | None) -> None:
    if config.model_type not in FAMILIES:
        raise CheckpointError(
            f"Teacher {name} is a model of kind {config.model_type}; its output is not understood. Known kinds are "
            f"{', '.join(FAMILIES)}; any other can be a teacher of your own, package.module:factory."
        )
    metric = _is_metric(config)
    if metric and align:
        raise ConfigError(f"Teacher {name} predicts metres: nothing to align. Leave --align {align} out.")
    if not metric and not align:
        raise ConfigError(
            f"Teacher {name} predicts relative inverse depth, not metres. Pass --align gt to fit its scale and shift "
            "to each frame's LiDAR depth, or choose a metric model."
        )


def _transformers() -> Any:
    timm_module()  # first: transformers, too, imports a torchvision that may need its operators declared
    try:
        import transformers
    except ImportError as error:
        raise ConfigError("Teachers hf:… need transformers: pip install 'tiekd-cache[hf]'.") from error
    return transformers


def _pil_backend(transformers: Any) -> dict[str, Any]:
    """Which of its two implementations an image processor uses: the one that every version has, for equal pixels."""
    newer = int(transformers.__version__.split(".")[0]) >= 5
    return {"backend": "pil"} if newer else {"use_fast": False}


@contextlib.contextmanager
def _quiet(transformers: Any, local: bool) -> Iterator[None]:
    """Without reports of transformers' own: what matters in them is said here, in one line.

    Its progress bars stay for a download, on a terminal.
    """
    log = transformers.logging
    verbosity, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    if local or not sys.stderr.isatty():
        log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if bars:
            log.enable_progress_bar()


@contextlib.contextmanager
def _in_one_line(model_id: str, local: bool, unreachable: str | None) -> Iterator[None]:
    """Whatever loading raises, as a CheckpointError that says what to do; `unreachable` says why the hub is."""
    try:
        yield
    except Exception as error:  # of the file system, the network, the hub, safetensors, pickle, or a configuration
        what = unreachable or str(error).strip().split("\n", 1)[0].rstrip(". ") or type(error).__name__
        if local:
            raise CheckpointError(
                f"Folder {model_id} holds no depth model that can be loaded ({what}). It needs config.json, "
                "preprocessor_config.json and model.safetensors, as save_pretrained writes them."
            ) from error
        raise CheckpointError(
            f"Model {model_id} cannot be fetched from the Hugging Face hub, nor found in its cache ({what}). Check the "
            "name and the network, or fetch it elsewhere (hf download ORG/NAME --local-dir FOLDER); pass hf:./FOLDER."
        ) from error


def _is_metric(config: Any) -> bool:
    if config.model_type == "depth_anything":
        return getattr(config, "depth_estimation_type", "relative") == "metric"
    return str(config.model_type) != "dpt"
