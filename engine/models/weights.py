"""Files of weights: whether they are there, of the kind that the card says, and unchanged."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import WeightsError

if TYPE_CHECKING:
    from engine.models.card import ModelCard

__all__ = ["ONNX", "read_onnx", "require_form", "verify_weights"]

ONNX = "onnx"
"""The architecture of a network that is a file of its own."""

_MOST_BYTES = (1 << 31) - 1
"""Of an ONNX file with its data: protobuf's own limit."""
_PICKLES = (b"\x80\x02", b"\x80\x04", b"PK")


def verify_weights(card: ModelCard) -> Path:
    """The weights' path, once their checksum is the card's.

    Raises
    ------
    WeightsError
    """
    if card.architecture == ONNX:
        read_onnx(card)
        return card.folder / card.weights
    path = require_form(card)
    _require_digest(path.name, path.read_bytes(), card.sha256)
    return path


def read_onnx(card: ModelCard) -> tuple[bytes, dict[str, bytes]]:
    """An ONNX file, and the files with weights of it by name, once their checksums are the card's.

    Only files that the card lists are opened, in its own folder, of the size that it says.

    Raises
    ------
    WeightsError
    """
    path = require_form(card)
    size = path.stat().st_size + sum(file.size for file in card.data)
    if size > _MOST_BYTES:
        raise WeightsError(
            "the network is too large for one ONNX file",
            got=f"{size:,} bytes with its data",
            expected=f"at most {_MOST_BYTES:,}",
        )
    content = path.read_bytes()
    _require_digest(path.name, content, card.sha256)
    data = {}
    for file in card.data:
        data[file.name] = _read_plain(card.folder / file.name, file.size)
        _require_digest(file.name, data[file.name], file.sha256)
    return content, data


def require_form(card: ModelCard) -> Path:
    """The path of a card's weights, which are there and of the kind that it says.

    Raises
    ------
    WeightsError
    """
    path = card.folder / card.weights
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise WeightsError("the weights are not there", got=f"{path.name}: {error}") from error
    pickled = head[:2] in _PICKLES
    if card.architecture == ONNX:
        if not head or pickled or path.suffix != ".onnx":
            raise WeightsError(
                "the weights are not ONNX",
                got=f"{path.name}: {'a pickle' if pickled else 'another format'}",
                expected="an .onnx file",
                remedy="export the network where it comes from; natmap opens no pickles",
            )
        return path
    length = int.from_bytes(head[:8], "little")
    if len(head) < 9 or head[8:9] != b"{" or length > path.stat().st_size:
        raise WeightsError(
            "the weights are not safetensors",
            got=f"{path.name}: {'a pickle' if pickled else 'another format'}",
            expected="a .safetensors file",
            remedy="convert it where it comes from; natmap opens no pickles, they can run code",
        )
    return path


def _read_plain(path: Path, size: int) -> bytes:
    """A file that is no link and has the size that is said of it."""
    try:
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode):
            raise WeightsError(
                "data of the weights is no plain file",
                got=path.name,
                expected="a file in the card's folder, and no link",
            )
        if found.st_size != size:
            raise WeightsError(
                "data of the weights has another size than the card says",
                got=f"{path.name}: {found.st_size:,} bytes",
                expected=f"{size:,}",
            )
        with path.open("rb") as file:
            return file.read(size)
    except OSError as error:
        raise WeightsError(
            "data of the weights is not there", got=f"{path.name}: {error}"
        ) from error


def _require_digest(name: str, content: bytes, wanted: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != wanted:
        raise WeightsError(
            "the weights are not those of the card",
            got=f"{name}: sha256 {found}",
            expected=f"sha256 {wanted}",
            remedy="get card and weights again, both from one place",
        )
