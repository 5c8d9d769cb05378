"""Reads a file of weights, whoever saved it and however it is wrapped, and never runs anything that it holds."""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core import multiarray

from tiekd_cache.errors import CheckpointError
from tiekd_cache.foreign import check_archive, shown

_WRAPPINGS = ("model", "state_dict")
_PREFIX = "module."
_TORCH_MEMBER = "data.pkl"  # in every zip archive that torch.save wrote; torch refuses others before it unpickles
_RULE = "A checkpoint is a state dictionary saved by torch.save, alone or under 'model' or 'state_dict', or safetensors"
_CODE_OPCODES = frozenset({"GLOBAL", "STACK_GLOBAL", "INST", "REDUCE"})

# Published files carry, beside the weights, NumPy arrays of plain numbers (best scores, step counts). Building one runs
# nothing of the file's. Files written under NumPy 1 and 2 name the same two functions differently.
_PLAIN_NUMPY: list[Any] = [
    np.ndarray,
    np.dtype,
    *{type(np.dtype(code)) for code in np.typecodes["AllInteger"] + np.typecodes["Float"] + "?"},
    *[
        (getattr(multiarray, function), f"{module}.{function}")
        for module in ("numpy.core.multiarray", "numpy._core.multiarray")
        for function in ("_reconstruct", "scalar")
    ],
]


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file by name, on the CPU, without `module.` prefixes and without `num_batches_tracked`.

    Args:
        path: a file of torch.save (any version; the dictionary itself or under `model` or `state_dict`), a
            `.safetensors` file, an archive (`.zip`) that holds a file `model`, or a folder that does.
    Raises:
        CheckpointError: no such file; truncated; no checkpoint; or one that holds code.
    """
    if path.is_dir():
        if not (path / "model").is_file():
            raise CheckpointError(f"{path} is a folder without a file 'model'. Pass the file with the weights.")
        path = path / "model"
    if not path.is_file():
        raise CheckpointError(f"No file {path}. Pass the file with the weights.")
    try:
        content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    except (OSError, MemoryError) as error:
        if isinstance(error, OSError) and error.filename is None:
            raise _damaged(path, error) from error  # raised by a reader inside the file, not by the file system
        raise CheckpointError(f"{path} cannot be read: {error}.") from error
    return _plain_names(_unwrap(content, path), path)


def _read_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path, device="cpu")
    except SafetensorError as error:
        raise _damaged(path, error) from error


def _read_torch(path: Path) -> Any:
    """What torch.load gives for weights alone."""
    source: Path | io.BytesIO = path
    try:
        member = _archived_model(path)
        if member is not None:
            with zipfile.ZipFile(path) as archive:
                source = io.BytesIO(archive.read(member))
            _check_sizes(path, source)
            source.seek(0)
        with torch.serialization.safe_globals(_PLAIN_NUMPY), warnings.catch_warnings():
            # about pickle protocols newer than torch's own: what cannot be read fails below, with our own words
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            return torch.load(source, map_location="cpu", weights_only=True)
    except (OSError, MemoryError, CheckpointError):
        raise
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        if named or _holds_code(source):
            what = f" ({named.group(1)})" if named else ""
            raise CheckpointError(
                f"{path} holds code{what}, not only weights; refused. Save the state dictionary alone and pass that."
            ) from error
        raise _damaged(path, error) from error
    except Exception as error:  # the unpickler raises anything at all on bytes that are no pickle
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path} is truncated, damaged or no checkpoint ({type(error).__name__}). {_RULE}.")


def _archived_model(path: Path) -> str | None:
    """The name of the file `model` inside a published archive; None where the file is no such archive."""
    try:
        _check_sizes(path, path)
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        return None
    if any(name.rpartition("/")[2] == _TORCH_MEMBER for name in names):
        return None  # torch's own format is a zip archive, too
    models = [name for name in names if name.rpartition("/")[2] == "model"]
    if len(models) != 1:
        raise CheckpointError(f"{path} is an archive with {len(models)} files called 'model'; unpack it and pass one.")
    return models[0]


def _check_sizes(path: Path, source: Path | io.BytesIO) -> None:
    """Raise CheckpointError where a zip archive is meant to fill our memory."""
    try:
        check_archive(source)
    except ValueError as error:
        raise CheckpointError(f"{path} cannot be a file of weights: {error}. Do not use it.") from None


def _holds_code(source: Path | io.BytesIO) -> bool:
    """Whether a pickle refused by torch imports or calls anything; looks at its instructions, executes none."""
    if isinstance(source, io.BytesIO):
        source.seek(0)
    if zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as archive:
            name = next(name for name in archive.namelist() if name.rpartition("/")[2] == _TORCH_MEMBER)
            stream: bytes = archive.read(name)
    else:
        stream = source.getvalue() if isinstance(source, io.BytesIO) else source.read_bytes()
    try:
        return any(opcode.name in _CODE_OPCODES for opcode, _, _ in pickletools.genops(stream))
    except ValueError:
        return False  # not a pickle at all


def _unwrap(content: Any, path: Path) -> dict[str, torch.Tensor]:
    """The dictionary of tensors, wherever it lies."""
    candidates = [content]
    if isinstance(content, Mapping):
        candidates += [content[key] for key in _WRAPPINGS if key in content]
    for candidate in candidates:
        if not isinstance(candidate, Mapping) or not candidate:
            continue
        if all(isinstance(key, str) and _is_dense(value) for key, value in candidate.items()):
            return dict(candidate)
    keys = ""
    if isinstance(content, Mapping):
        names = [shown(repr(key)) if isinstance(key, str) else type(key).__name__ for key in list(content)[:3]]
        keys = f" with {', '.join(names) or 'nothing'}"
    raise CheckpointError(f"{path} holds a {type(content).__name__}{keys}, not weights. {_RULE}.")


def _is_dense(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.layout == torch.strided


def _plain_names(state: dict[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    """Without the prefix of a parallel wrapper and without step counters, which no network here reads."""
    plain: dict[str, torch.Tensor] = {}
    for key, tensor in state.items():
        name = key.removeprefix(_PREFIX)
        if name in plain:
            raise CheckpointError(f"{path} holds '{name}' twice, with and without the prefix '{_PREFIX}'.")
        if name.rpartition(".")[2] != "num_batches_tracked":
            plain[name] = tensor
    return plain
