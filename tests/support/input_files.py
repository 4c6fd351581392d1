"""Petitions that name input files."""

import hashlib

import msgspec

from sdistrib.petitions import InputFile, Petition

#: An input file for tests that do not look into it.
FILE = b"what a picture's bytes may be"


def digest_of(data: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


def with_files(petition: Petition, *files: bytes) -> Petition:
    """The same petition, with these as its reference pictures."""
    named = tuple(InputFile(digest_of(data), len(data)) for data in dict.fromkeys(files))
    params = msgspec.structs.replace(
        petition.params, ref_images=tuple(file.digest for file in named)
    )
    return msgspec.structs.replace(petition, params=params, inputs=named)
