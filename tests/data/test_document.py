import hashlib
import io
import struct
from collections.abc import Iterable

import pytest
import zstandard

from tokenmill.data.document import (
    FRAME_BYTES,
    Document,
    DocumentWriter,
    first_key,
    read_frames,
    read_lines,
    to_line,
)
from tokenmill.errors import FormatError, VersionError

DOCUMENTS = [
    Document(
        id="a", text="One.\r\nTwo — zwei\u2028drei", url="http://a/", metadata={"n": 1, "b": [True, None]}
    ),
    Document(id="b", text="", metadata={}),
]


def stored(documents: Iterable[Document]) -> bytes:
    sink = io.BytesIO()
    writer = DocumentWriter(sink)
    for document in documents:
        writer.write(document)
    writer.close()
    return sink.getvalue()


def test_golden_file() -> None:
    """The bytes of version 1: a change here is a new version."""
    raw = b"".join(to_line(document) for document in DOCUMENTS)
    assert (
        raw
        == (
            '{"id":"a","metadata":{"b":[true,null],"n":1},"text":"One.\\r\\nTwo — zwei\u2028drei","url":"http://a/"}\n'
            '{"id":"b","metadata":{},"text":"","url":""}\n'
        ).encode()
    )
    data = stored(DOCUMENTS)
    header = b"\x50\x2a\x4d\x18\x08\x00\x00\x00TMDOCS\x01\x00"
    assert data.startswith(header)
    frame = zstandard.ZstdCompressor(level=3, write_checksum=True).compress(raw)
    table = struct.pack("<IIII", len(header), 0, len(frame), len(raw)) + struct.pack("<IBI", 2, 0, 0x8F92EAB1)
    assert data == header + frame + struct.pack("<II", 0x184D2A5E, len(table)) + table
    if zstandard.ZSTD_VERSION == (1, 5, 7):
        assert hashlib.sha256(data).hexdigest() == GOLDEN


GOLDEN = "b89ae42b3d83dca4c74b0f8613ec7087a4eda3f737850c1a0152dbe97f11f4d6"


def test_any_zstd_reader_reads_it() -> None:
    reader = zstandard.ZstdDecompressor().stream_reader(
        io.BytesIO(stored(DOCUMENTS)), read_across_frames=True
    )
    assert reader.read() == b"".join(to_line(document) for document in DOCUMENTS)


def test_frames_hold_whole_lines_and_know_their_place() -> None:
    texts = [str(number) * 1000 for number in range(900)] + ["x" * (FRAME_BYTES + 5)]
    documents = [Document(id=str(index), text=text) for index, text in enumerate(texts)]
    file = io.BytesIO(stored(documents))
    frames = read_frames(file)
    assert frames is not None
    assert len(frames) == 4
    assert all(frame.raw_bytes <= FRAME_BYTES for frame in frames[:-1])
    raw = b"".join(to_line(document) for document in documents)
    lines = [item for frame in frames for item in read_lines(file, frame)]
    assert b"".join(line for _, line in lines) == raw
    assert all(raw[position : position + len(line)] == line for position, line in lines)


def test_empty() -> None:
    assert read_frames(io.BytesIO(stored([]))) == []
    assert read_frames(io.BytesIO(b"")) is None


def test_newer_version_is_refused() -> None:
    data = bytearray(stored(DOCUMENTS))
    data[14] = 2
    with pytest.raises(VersionError, match="newer"):
        read_frames(io.BytesIO(bytes(data)))


def test_damage_is_told() -> None:
    data = stored(DOCUMENTS)
    with pytest.raises(FormatError, match="cut off"):
        read_frames(io.BytesIO(data[:-3]))
    with pytest.raises(FormatError, match="does not fit"):
        read_frames(io.BytesIO(data[:20] + data[24:]))
    broken = bytearray(data)
    broken[30] ^= 255
    file = io.BytesIO(bytes(broken))
    frames = read_frames(file)
    assert frames
    with pytest.raises(FormatError, match="decompress"):
        list(read_lines(file, frames[0]))


def test_too_many_frames_in_the_footer() -> None:
    data = bytearray(stored(DOCUMENTS))
    data[-9:-5] = struct.pack("<I", 10_000)
    with pytest.raises(FormatError, match="does not fit"):
        read_frames(io.BytesIO(bytes(data)))


def test_keys_order_by_file_then_place() -> None:
    documents = [Document(id="", text="", file_index=f, position=p) for f in (0, 1) for p in (0, 7)]
    keys = [document.key for document in documents]
    assert keys == sorted(set(keys))
    assert first_key(1) == documents[2].key
