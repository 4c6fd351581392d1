"""How the texts of `infotext` stand in JPEG and WebP files, which have no text chunks. Pure.

The A1111 text is EXIF's `UserComment` as A1111 itself writes it (tag 0x9286 below the EXIF
directory, `UNICODE`, UTF-16 with the high byte first). Our own chunk is an XMP packet with one
property, `sdistrib:facts`. Its JSON holds no character that XML would want escaped, so that no XML
parser is needed to read it; sd-cli's WebP files carry their text in the same way.
"""

import html
import re

#: EXIF's directory and the tag in it.
EXIF_IFD = 0x8769
USER_COMMENT = 0x9286

_UNICODE = b"UNICODE\0"
_ASCII = b"ASCII\0\0\0"
_UNDEFINED = bytes(8)
#: What XML would read as markup, or not take at all; JSON may spell any of them as \uXXXX.
_NOT_IN_XML = re.compile("[<>&\x7f-\x9f\u2028\u2029\ufffe\uffff]")
_PACKET = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:sdistrib="urn:sdistrib:facts:1">'
    "<sdistrib:facts>{}</sdistrib:facts>"
    "</rdf:Description></rdf:RDF></x:xmpmeta>"
)


def user_comment(text: str) -> bytes:
    """The value of EXIF's `UserComment` that says `text`."""
    return _UNICODE + text.encode("utf-16-be")


def read_user_comment(value: bytes) -> str:
    """The text of a `UserComment`, whoever wrote it.

    Raises:
        ValueError: its bytes are no text.
    """
    mark, body = value[:8], value[8:]
    if mark == _UNICODE:
        # The standard leaves the byte order open. Most text has far more high bytes that are zero.
        low_first = body[1::2].count(0) > body[::2].count(0)
        return body.decode("utf-16-le" if low_first else "utf-16-be")
    return (body if mark in (_ASCII, _UNDEFINED) else value).decode()


def packet(chunk: str) -> bytes:
    """An XMP packet with our chunk, which is JSON."""
    plain = _NOT_IN_XML.sub(lambda found: f"\\u{ord(found[0]):04x}", chunk)
    return _PACKET.format(plain).encode()


def read_packet(xmp: bytes, name: str) -> str | None:
    """The property `name` ("sdistrib:facts", "sdcpp:parameters") of an XMP packet, if it is there.

    Raises:
        ValueError: the packet is no UTF-8.
    """
    start, end = f"<{name}>", f"</{name}>"
    text = xmp.decode()
    at = text.find(start)
    stop = text.find(end, at)
    return html.unescape(text[at + len(start) : stop]) if 0 <= at < stop else None
