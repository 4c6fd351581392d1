"""Frames to messages and back. Nothing untyped is ever made from a peer's bytes."""

import re
from typing import Any

import msgspec

from sdistrib import limits
from sdistrib.errors import PetitionError, ProtocolError
from sdistrib.models import ModelFile
from sdistrib.params import check
from sdistrib.petitions import Petition, check_inputs
from sdistrib.protocol.messages import VERSION, Message, verb

_ENCODER = msgspec.msgpack.Encoder()
_PETITION = msgspec.msgpack.Decoder(Petition)
_INVENTORY = msgspec.msgpack.Decoder(tuple[ModelFile, ...])
_VERSION_BYTE = bytes([VERSION])
_BODY_BYTES_MAX = {
    "": 0,
    "petition": limits.BODY_BYTES_MAX,
    "inventory": limits.INVENTORY_BYTES_MAX,
    "picture": limits.CHUNK_BYTES,
    "preview": limits.PREVIEW_BYTES_MAX,
}
#: What a decoder may raise on hostile bytes; msgspec's own errors are ValueErrors.
_DECODE_ERRORS = (ValueError, RecursionError, OverflowError)

#: Longer than any error of msgspec that quotes nothing of the peer's.
_QUOTE_CHARS_MAX = 500

#: A frame as ZeroMQ hands it over, or as we make it.
Buffer = bytes | memoryview


class Received(msgspec.Struct, frozen=True):
    """A message that was understood, and its body frame, empty where there is none."""

    message: Message
    body: Buffer = b""


class Codec:
    """Encodes and decodes the messages that may arrive on one side of one port."""

    def __init__(self, kinds: tuple[type[Message], ...]) -> None:
        self._decoders = {
            verb(kind).encode(): (kind, msgspec.msgpack.Decoder(kind)) for kind in kinds
        }

    def decode(self, frames: list[Buffer]) -> Received:
        """Understand the frames of one message, route taken off.

        Raises:
            ProtocolError: with one sentence that may be sent back to the peer.
        """
        if not 2 <= len(frames) <= limits.FRAMES_MAX - 1:
            raise ProtocolError(_strange(frames))
        head, header = bytes(frames[0][:64]), frames[1]
        if head[:1] != _VERSION_BYTE:
            raise ProtocolError(_strange(frames))
        if len(header) > limits.HEADER_BYTES_MAX:
            raise ProtocolError(
                f"a header of {len(header)} bytes; {limits.HEADER_BYTES_MAX} is most"
            )
        found = self._decoders.get(head[1:])
        if found is None:
            name = head[1:].decode("ascii", "backslashreplace")
            raise ProtocolError(f"the verb {name!r} is not known here")
        kind, decoder = found
        try:
            message = decoder.decode(header)
        except _DECODE_ERRORS as error:
            raise ProtocolError(f"{verb(kind)}: {str(error)[:_QUOTE_CHARS_MAX]}") from None
        return Received(message, _body(kind, frames[2:]))


def _body(kind: type[Message], rest: list[Buffer]) -> Buffer:
    body = rest[0] if rest else b""
    if len(body) > _BODY_BYTES_MAX[kind.BODY]:
        most = _BODY_BYTES_MAX[kind.BODY]
        raise ProtocolError(f"{verb(kind)}: a body of {len(body)} bytes; {most} is most")
    return body


def _strange(frames: list[Buffer]) -> str:
    if frames and len(frames[0]) == 0:
        return (
            "this looks like the C++ sdistrib (an empty delimiter frame); the peer must be"
            " sdistrib for Python"
        )
    if len(frames) >= 2 and len(frames[0]) > 1 and bytes(frames[0][1:4]).isalpha():
        return f"protocol version {frames[0][0]} is not spoken here, only {VERSION}"
    return f"{len(frames)} frames that are no message of protocol {VERSION}"


def encode(message: Message, body: Buffer | None = None) -> list[Buffer]:
    """The frames of a message, without a route."""
    head = _HEADS.get(type(message))
    if head is None:
        head = _HEADS[type(message)] = _VERSION_BYTE + verb(type(message)).encode()
    frames: list[Buffer] = [head, _ENCODER.encode(message)]
    if body is not None:
        frames.append(body)
    return frames


_HEADS: dict[type[Message], bytes] = {}


def encode_petition(petition: Petition) -> bytes:
    """The body bytes of a petition; kept by the client so that a resend is the same bytes."""
    return _ENCODER.encode(petition)


def decode_petition(body: Buffer) -> Petition:
    """Understand and check a petition.

    Raises:
        PetitionError: `invalid_params`, `too_large`, … naming the field.
    """
    try:
        petition = _PETITION.decode(body)
    except _DECODE_ERRORS as error:
        raise _field_error(str(error)) from None
    check(petition.params)
    check_inputs(petition)
    return petition


def _field_error(text: str) -> PetitionError:
    """What msgspec says, with the field that it names; what it quotes may be of any length."""
    found = re.search(r"field `(\w{1,64})`|`\$\.params\.(\w{1,64})|`\$\.(\w{1,64})", text)
    field = next(filter(None, found.groups()), "") if found else ""
    message = text if len(text) <= _QUOTE_CHARS_MAX else f"{text[:300]} ... {text[-150:]}"
    if "`$" not in message:
        message += " in the petition"
    message = message.replace("`$.params.", "`").replace("`$.", "`")
    return PetitionError.of("invalid_params", message, field=field)


def encode_inventory(files: tuple[ModelFile, ...]) -> bytes:
    """The body bytes of an inventory."""
    return _ENCODER.encode(files)


def decode_inventory(body: Buffer) -> tuple[ModelFile, ...]:
    """Understand an inventory.

    Raises:
        ProtocolError: it is malformed or has too many files.
    """
    try:
        files = _INVENTORY.decode(body)
    except _DECODE_ERRORS as error:
        raise ProtocolError(f"inventory: {str(error)[:_QUOTE_CHARS_MAX]}") from None
    if len(files) > limits.INVENTORY_FILES_MAX:
        raise ProtocolError(f"inventory: {len(files)} files; {limits.INVENTORY_FILES_MAX} is most")
    return files


def as_plain(message: Message) -> Any:
    """A message as plain dicts and lists, for JSON output and tests."""
    return msgspec.to_builtins(message)
