"""XXH3, 64 bits, in pure Python: the fallback of `accel.hash` where the xxhash package is missing.

After the description of the algorithm (github.com/Cyan4973/xxHash, doc/xxhash_spec.md). It takes 2 to 25 us for
up to 240 bytes and about 60 ns a byte beyond: enough to open any journal on any board.
"""

from __future__ import annotations

from struct import unpack_from

_U64 = (1 << 64) - 1
_U32 = (1 << 32) - 1
_P32_1, _P32_2, _P32_3 = 0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D
_P64_1, _P64_2, _P64_3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
_P64_4, _P64_5 = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5
_MIX_1, _MIX_2 = 0x165667919E3779F9, 0x9FB21C651E98DF25

_SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671f"
    "cb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c"
    "3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364"
    "eac5ac8334d3ebc3c581a0fffa1363eb170ddd51b7f0da49d316552629d4689e"
    "2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"
)
_STRIPE = 64
_LAST = len(_SECRET) - _STRIPE
_STRIPES_PER_BLOCK = _LAST // 8
_BLOCK = _STRIPE * _STRIPES_PER_BLOCK
_START = (_P32_3, _P64_1, _P64_2, _P64_3, _P64_4, _P32_2, _P64_5, _P32_1)


def xxh3_64(data: bytes | bytearray | memoryview, seed: int = 0) -> int:
    """XXH3 of `data`, as an unsigned 64-bit number."""
    raw = bytes(data)
    size = len(raw)
    seed &= _U64
    if size <= 16:
        return _tiny(raw, size, seed)
    if size <= 128:
        return _short(raw, size, seed)
    if size <= 240:
        return _middle(raw, size, seed)
    return _long(raw, size, seed)


def _u64(raw: bytes, at: int) -> int:
    return int.from_bytes(raw[at : at + 8], "little")


def _u32(raw: bytes, at: int) -> int:
    return int.from_bytes(raw[at : at + 4], "little")


def _tiny(raw: bytes, size: int, seed: int) -> int:
    if size > 8:
        low = _u64(raw, 0) ^ ((_u64(_SECRET, 24) ^ _u64(_SECRET, 32)) + seed & _U64)
        high = _u64(raw, size - 8) ^ ((_u64(_SECRET, 40) ^ _u64(_SECRET, 48)) - seed & _U64)
        swapped = int.from_bytes(low.to_bytes(8, "little"), "big")
        return _avalanche(size + swapped + high + _fold(low, high))
    if size > 3:
        seed ^= int.from_bytes((seed & _U32).to_bytes(4, "little"), "big") << 32
        flip = (_u64(_SECRET, 8) ^ _u64(_SECRET, 16)) - seed & _U64
        mixed = (_u32(raw, size - 4) + (_u32(raw, 0) << 32)) ^ flip
        mixed ^= _rotated(mixed, 49) ^ _rotated(mixed, 24)
        mixed = mixed * _MIX_2 & _U64
        mixed ^= (mixed >> 35) + size
        mixed = mixed * _MIX_2 & _U64
        return mixed ^ mixed >> 28
    if size:
        combined = raw[0] << 16 | raw[size >> 1] << 24 | raw[-1] | size << 8
        return _avalanche_xxh64(combined ^ (_u32(_SECRET, 0) ^ _u32(_SECRET, 4)) + seed & _U64)
    return _avalanche_xxh64(seed ^ _u64(_SECRET, 56) ^ _u64(_SECRET, 64))


def _short(raw: bytes, size: int, seed: int) -> int:
    total = size * _P64_1
    for step in range((size - 1) // 32, -1, -1):
        total += _mix(raw, 16 * step, 32 * step, seed)
        total += _mix(raw, size - 16 * (step + 1), 32 * step + 16, seed)
    return _avalanche(total)


def _middle(raw: bytes, size: int, seed: int) -> int:
    total = size * _P64_1
    for at in range(0, 128, 16):
        total += _mix(raw, at, at, seed)
    total = _avalanche(total)
    for at in range(128, size // 16 * 16, 16):
        total += _mix(raw, at, at - 128 + 3, seed)
    return _avalanche(total + _mix(raw, size - 16, 136 - 17, seed))


def _long(raw: bytes, size: int, seed: int) -> int:
    secret = _seeded(seed) if seed else _SECRET
    keys = [unpack_from("<8Q", secret, 8 * stripe) for stripe in range(_STRIPES_PER_BLOCK)]
    scramble = unpack_from("<8Q", secret, _LAST)
    lanes = list(_START)
    blocks = (size - 1) // _BLOCK
    for block in range(0, blocks * _BLOCK, _BLOCK):
        for stripe, key in enumerate(keys):
            _accumulate(lanes, unpack_from("<8Q", raw, block + _STRIPE * stripe), key)
        lanes = [(lane ^ lane >> 47 ^ key) * _P32_1 & _U64 for lane, key in zip(lanes, scramble, strict=True)]
    for stripe in range((size - 1 - blocks * _BLOCK) // _STRIPE):
        _accumulate(lanes, unpack_from("<8Q", raw, blocks * _BLOCK + _STRIPE * stripe), keys[stripe])
    _accumulate(lanes, unpack_from("<8Q", raw, size - _STRIPE), unpack_from("<8Q", secret, _LAST - 7))
    total = size * _P64_1
    for lane, key in enumerate(unpack_from("<8Q", secret, 11)):
        lanes[lane] ^= key
    for lane in range(0, 8, 2):
        total += _fold(lanes[lane], lanes[lane + 1])
    return _avalanche(total)


def _seeded(seed: int) -> bytes:
    words = unpack_from("<24Q", _SECRET)
    return b"".join(
        ((word - seed if index % 2 else word + seed) & _U64).to_bytes(8, "little")
        for index, word in enumerate(words)
    )


def _accumulate(lanes: list[int], words: tuple[int, ...], keys: tuple[int, ...]) -> None:
    for lane in range(8):
        word = words[lane]
        key = word ^ keys[lane]
        lanes[lane ^ 1] = lanes[lane ^ 1] + word & _U64
        lanes[lane] = lanes[lane] + (key & _U32) * (key >> 32) & _U64


def _mix(raw: bytes, at: int, secret_at: int, seed: int) -> int:
    low = _u64(raw, at) ^ (_u64(_SECRET, secret_at) + seed & _U64)
    high = _u64(raw, at + 8) ^ (_u64(_SECRET, secret_at + 8) - seed & _U64)
    return _fold(low, high)


def _fold(low: int, high: int) -> int:
    product = low * high
    return product & _U64 ^ product >> 64


def _rotated(value: int, bits: int) -> int:
    return (value << bits | value >> 64 - bits) & _U64


def _avalanche(value: int) -> int:
    value &= _U64
    value = (value ^ value >> 37) * _MIX_1 & _U64
    return value ^ value >> 32


def _avalanche_xxh64(value: int) -> int:
    value &= _U64
    value = (value ^ value >> 33) * _P64_2 & _U64
    value = (value ^ value >> 29) * _P64_3 & _U64
    return value ^ value >> 32
