"""Hostile inputs, made of valid ones."""

from __future__ import annotations

import copy
import json
import random
import re
import struct
import zlib
from collections.abc import Sequence
from typing import Any

_TOKEN = re.compile(rb"[A-Za-z_]+|[0-9.]+|\s+|.", re.S)

WORDS: tuple[bytes, ...] = (
    b"", b"0", b"-1", b"1", b"255", b"256", b"65536", b"4294967296", b"-9223372036854775809",
    b"1e400", b"-1e300", b"1e-400", b"nan", b"NaN", b"Infinity", b".inf",
    b"9" * 5000, b"0x" + b"f" * 99,
    b"true", b"null", b"~", b"none", b"background", b"2024-99-99", b"12:30",
    b"[" * 3000, b"{" * 300,
    b"- " * 300, b"*a", b"&a ", b"!!int ", b"!!python/object:os.system ", b"<<: ",
    b"? ", b"| ", b"---\n",
    b"'", b'"', b"\\", b"\\ud800", b"\\u0000", b",", b";", b":", b"#", b"\n", b"\r", b"\r\n", b"\t",
    b"\x00", b"\x1b[2J", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xef\xbb\xbf",
    b"\xff\xfe", b"\xe2\x80\xa8",
    b"\xe2\x80\xae", b"\xf0\x9f\x98\x80", b"e\xcc\x81", b"=1+1", b"@", b"../../x",
    b"/etc/passwd", b"a" * 300,
    b"<b>", b"&x;", b"<!ENTITY x 'y'>", b"$x^$", b"[/b]", b"{}", b"{0.__class__}", b"{:>999999999}",
)  # fmt: skip

VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63) - 1, 10**400, 0.5, -0.0,
    1e300, 1e-300,
    float("nan"), float("inf"), "", "a", "0", "1e400", "nan", "\x00", "\x1b[2J", "\ud800", "\u202e",
    "../x",
    "/etc/passwd", "=1+1", "a" * 5000, [], {}, [[]], [None], [0], {"a": 1}, ["a", 1, None],
    [[1, 2], [3]],
)  # fmt: skip


_CHUNKS = (b"IDAT", b"PLTE", b"tRNS", b"iCCP", b"eXIf", b"acTL", b"zTXt", b"gAMA", b"IEND")


def bytes_like(rng: random.Random, seeds: Sequence[bytes], words: Sequence[bytes] = WORDS) -> bytes:
    """A seed after some changes to bytes and tokens; now and then noise."""
    if rng.random() < 0.03:
        return rng.randbytes(rng.randrange(200))
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        kind = rng.randrange(9)
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.choice((1, 1, 2, 4, 16, 200)))
        if kind == 0:
            data[at:end] = rng.randbytes(end - at)
        elif kind == 1:
            data[at:at] = rng.choice(words)
        elif kind == 2:
            del data[at:end]
        elif kind == 3:
            data[at:at] = data[at:end] * rng.choice((1, 2, 20))
        elif kind == 4:
            del data[at:]
        elif kind == 5 and data:
            data[min(at, len(data) - 1)] ^= 1 << rng.randrange(8)
        elif kind == 6:
            other = rng.choice(seeds)
            data[at:end] = other[at : at + rng.randrange(64)]
        elif kind == 7 and end - at >= 4:
            number = rng.choice((0, 1, 2**31 - 1, 2**31, 2**32 - 1, rng.randrange(2**32)))
            data[at : at + 4] = struct.pack(rng.choice("<>") + "I", number)
        else:
            tokens = _TOKEN.findall(bytes(data[:20_000]))
            if tokens:
                index = rng.randrange(len(tokens))
                tokens[index] = rng.choice((*words, rng.choice(tokens)))
                data[:20_000] = b"".join(tokens)
    return bytes(data)


def table_like(rng: random.Random, table: Any) -> Any:
    """A nested value after some changes to its parts."""
    table = copy.deepcopy(table)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        table = _changed(rng, table)
    return table


def _changed(rng: random.Random, table: Any) -> Any:
    if not isinstance(table, dict | list) or not table or rng.random() < 0.15:
        return _value(rng, table)
    keys = list(table) if isinstance(table, dict) else range(len(table))
    key = rng.choice(keys)
    kind = rng.random()
    if kind < 0.1:
        del table[key]
    elif kind < 0.15:
        other = rng.choice(keys)
        table[key], table[other] = table[other], table[key]
    elif kind < 0.2 and isinstance(table, list):
        table.append(copy.deepcopy(table[key]))
    elif kind < 0.23 and isinstance(table, dict):
        table[rng.choice(("", "a", "\x00", str(key) * 2))] = _value(rng, table[key])
    else:
        table[key] = _changed(rng, table[key])
    return table


def _value(rng: random.Random, old: Any) -> Any:
    kind = rng.randrange(6)
    if kind == 0 and isinstance(old, int | float) and abs(old) < 1e100:
        return old * rng.choice((-1, 0, 2, 1.5, 10**9)) + rng.choice((0, 1, -1))
    if kind == 1 and isinstance(old, str):
        return bytes_like(rng, [old.encode("utf-8", "surrogatepass")]).decode("utf-8", "replace")
    if kind == 2:
        nested = old
        for _ in range(rng.choice((1, 2, 100))):
            nested = [nested] if rng.random() < 0.5 else {"a": nested}
        return nested
    return copy.deepcopy(rng.choice(VALUES))


def json_like(rng: random.Random, table: Any) -> bytes:
    """JSON of a changed value, or its text changed."""
    if rng.random() < 0.4:
        return bytes_like(rng, [json.dumps(table).encode()])
    return json.dumps(table_like(rng, table)).encode()


def safetensors_like(rng: random.Random, seed: bytes) -> bytes:
    """A safetensors file whose header, and the JSON in its metadata, are changed and fit again."""
    if rng.random() < 0.3:
        return bytes_like(rng, [seed])
    (length,) = struct.unpack("<Q", seed[:8])
    header, body = json.loads(seed[8 : 8 + length]), seed[8 + length :]
    inner = header.get("__metadata__", {}).get("ssrseg")
    if inner is not None and rng.random() < 0.7:
        header["__metadata__"]["ssrseg"] = json_like(rng, json.loads(inner)).decode(
            "utf-8", "replace"
        )
    else:
        header = table_like(rng, header)
    if rng.random() < 0.2:
        body = bytes_like(rng, [body])
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def png_like(rng: random.Random, seed: bytes) -> bytes:
    """A PNG with a changed part that has a right checksum."""
    if rng.random() < 0.3:
        return bytes_like(rng, [seed])
    parts, at = [], 8
    while at + 8 <= len(seed):
        (length,) = struct.unpack(">I", seed[at : at + 4])
        parts.append((seed[at + 4 : at + 8], seed[at + 8 : at + 8 + length]))
        at += 12 + length
    index = rng.randrange(len(parts))
    kind, data = parts[index]
    if kind == b"IDAT" and rng.random() < 0.5:
        data = zlib.compress(bytes_like(rng, [zlib.decompress(data)]))
    else:
        data = bytes_like(rng, [data])
    if rng.random() < 0.1:
        kind = rng.choice(
            (b"IDAT", b"PLTE", b"tRNS", b"iCCP", b"eXIf", b"acTL", b"zTXt", b"gAMA", b"IEND")
        )
    parts[index] = kind, data
    if rng.random() < 0.1:
        parts.insert(rng.randrange(len(parts)), rng.choice(parts))
    chunks = (
        struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts
    )
    return seed[:8] + b"".join(chunks)
