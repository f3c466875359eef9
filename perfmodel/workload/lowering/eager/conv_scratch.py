"""Workspace that cuDNN's convolutions take from PyTorch's allocator while they run.

Engines for tensor cores read images channels last, with channels in multiples of 16 bytes. What is
not so is copied first, and every copy is workspace:

* **turned**: an image, its result and filters of more than one tap that are channels first;
* **padded**: channels that are no multiple, up to the next one; a photograph's three up to eight,
  where the arithmetic is worth it (else ``convolve_common_engine``, without tensor cores);
* **groups**: kernels take groups of 4, 8, 16 or 32 channels, as many in as out. Others are padded
  to the next power of two, filters too (``tensorTransformGeneric``), or cut out one by one and
  convolved as images of their own (``nhwcSliceCKernel``), which few groups of large maps are;
* fp32 without TF32 has no engine channels last for filters of more than one tap: all is turned the
  other way, and transformed where images fill a tile of 16 or 32 pixels (``fft2d_r2c_32x32``).

Sizes are those of the copies, each a multiple of 512 bytes; which of two ways the library's search
takes is a matter of microseconds, and the bounds below are those of some 200 watched calls on an
H100 (cuDNN 9.19). Split sums of weight gradients, a few MB, are not here.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from perfmodel.workload.lowering.site import Site, item_bytes, numel
from perfmodel.workload.program import Tensor

CHANNELS: Final = 8
"""Channels to which an image of few is padded."""
_LINE: Final = 16  # bytes of channels that an engine loads at once
_ROUND, _PARAMETERS = 512, 512
_WORTH, _REUSE = 5e8, 25.0  # multiplications, and of them a byte of the padded photograph
_WIDEST, _NARROWEST = 128, 4  # channels of a padded group
_FEW_GROUPS, _SOME_GROUPS, _LARGE_MAPS = 2, 4, 8 * 2**20
_THIN, _FEW_PLACES = 12, 8192  # one-tap groups for kernels without tensor cores
_TILES: Final = (16, 32)
_MANY, _MANY_IMAGES, _SMALLEST = 128, 32, 8
_WINOGRAD = 4


def conv_scratch(
    site: Site, x: Tensor, weight: Tensor, out: Tensor, *, order: str, rate: str
) -> int:
    """Bytes of the copies that a convolution works on; 0 where there are none [B].

    Parameters
    ----------
    site : Site
        The convolution or its backward pass.
    x, weight, out : Tensor
        Image, filters, and the result or its gradient.
    order : str
        ``"nhwc"`` or ``"nchw"``.
    rate : str
        What it multiplies in: ``"bf16"``, ``"fp16"``, ``"tf32"``, ``"fp32"``.
    """
    groups = int(site.attribute("groups", 1))
    if len(x.shape) == 3:  # PyTorch runs a line as an image one pixel high
        x, weight, out = (_image(tensor) for tensor in (x, weight, out))
    if len(x.shape) != 4 or rate not in ("bf16", "fp16", "tf32", "fp32"):
        return 0
    if bool(site.attribute("transposed", False)):
        x, out = out, x
    turned = order == "nchw"
    if rate == "fp32":
        return 0 if turned or groups > 1 else _turned_back(site, x, weight, out)
    if groups > 1:
        size = _grouped(site, x, weight, out, turned=turned, half=rate != "tf32")
    elif x.shape[1] < CHANNELS:
        size = _photograph(site, x, weight, out, turned=turned, half=rate != "tf32")
    else:
        size = _dense(site, x, weight, out, turned=turned)
    return size + _PARAMETERS if size else 0


def _image(line: Tensor) -> Tensor:
    return replace(line, shape=(*line.shape[:2], 1, *line.shape[2:]))


def _dense(site: Site, x: Tensor, weight: Tensor, out: Tensor, *, turned: bool) -> int:
    taps = numel(weight.shape[2:])
    if taps == 1 and not (turned and _step(site) > 1):
        return 0
    multiple = _LINE // item_bytes(x.dtype)
    c, k = (-(-one.shape[1] // multiple) * multiple for one in (x, out))
    padded = c != x.shape[1] or k != out.shape[1]
    if not (turned or padded):
        return 0
    size = sum(
        _rounded(numel(tensor.shape) // tensor.shape[1] * width * item_bytes(tensor.dtype))
        for tensor, width in ((x, c), (out, k))
        if turned or width != tensor.shape[1]
    )
    return size + _rounded(c * k * taps * item_bytes(weight.dtype))


def _photograph(
    site: Site, x: Tensor, weight: Tensor, out: Tensor, *, turned: bool, half: bool
) -> int:
    taps = numel(weight.shape[2:])
    places = numel(x.shape) // max(1, x.shape[1])
    products = float(numel(out.shape)) * x.shape[1] * taps
    wide = CHANNELS if half else x.shape[1]
    image = places * wide * item_bytes(x.dtype)
    backward = "backward" in site.name
    if turned and _step(site) >= max(weight.shape[2:]):  # patches: ``precomputed_convolve_sgemm``
        return 0
    if not backward and (products < _WORTH or products < _REUSE * image):
        return 0
    filters = _rounded(out.shape[1] * wide * taps * item_bytes(weight.dtype))
    return image + filters + (site.bytes(out) if turned else 0)


def _grouped(
    site: Site, x: Tensor, weight: Tensor, out: Tensor, *, turned: bool, half: bool
) -> int:
    groups, taps = int(site.attribute("groups", 1)), numel(weight.shape[2:])
    each = [max(1, tensor.shape[1] // groups) for tensor in (x, out)]
    width = max(_NARROWEST, 1 << (max(each) - 1).bit_length())
    maps = site.bytes(x) + site.bytes(out)
    if each[0] == 1:
        return 0
    if each[0] == each[1] == width:
        return maps + site.bytes(weight) if turned else 0
    way = _of_groups(each, width, groups, taps, _places(x), maps, half=half)
    if way != "padded":
        return 0 if way == "direct" else maps + (site.bytes(weight) if turned and taps > 1 else 0)
    size = sum(
        numel(tensor.shape) // one * width * item_bytes(tensor.dtype)
        for tensor, one in zip((x, out), each, strict=True)
        if turned or one != width
    )
    return size + _rounded(groups * width * width * taps * item_bytes(weight.dtype))


def _of_groups(
    each: list[int], width: int, groups: int, taps: int, places: int, maps: int, *, half: bool
) -> str:
    """How groups that no kernel takes as they are run: ``direct``, ``sliced`` or ``padded``."""
    most = max(each)
    if taps > 1 and each[0] == each[1]:
        few = groups <= _FEW_GROUPS or (groups <= _SOME_GROUPS and maps > _LARGE_MAPS)
        return "sliced" if few or width > _WIDEST else "padded"
    if taps > 1:
        thin = most <= CHANNELS and places <= _FEW_PLACES
        return "direct" if thin or width > _WIDEST else "padded"
    if not half or width > _WIDEST or most <= _THIN:
        return "direct"
    if groups < _SOME_GROUPS and all(one % CHANNELS == 0 for one in each):
        return "sliced"
    return "direct" if places > _FEW_PLACES else "padded"


def _turned_back(site: Site, x: Tensor, weight: Tensor, out: Tensor) -> int:
    """fp32 channels last: all is turned, and transformed where a tile holds an image."""
    if numel(weight.shape[2:]) == 1 or min(weight.shape[:2]) < CHANNELS:
        return 0
    size = site.bytes(x) + site.bytes(out) + site.bytes(weight)
    width = item_bytes(x.dtype)
    if "backward" in site.name:  # ``winograd_nonfused::winogradWgradData4x4``
        if _step(site) > 1 or tuple(weight.shape[2:]) != (3, 3):
            return size
        tiles = x.shape[0] * numel([-(-side // _WINOGRAD) for side in x.shape[2:]])
        c, k = x.shape[1], out.shape[1]
        return size + (_WINOGRAD + 2) ** 2 * width * (tiles * (c + k) + c * k)
    reach = max(x.shape[2:]) + max(weight.shape[2:]) - 1
    many = min(weight.shape[:2]) >= _MANY and x.shape[0] >= _MANY_IMAGES
    fits = [side for side in _TILES if reach <= side]
    if not fits or not many or _step(site) > 1 or max(x.shape[2:]) <= _SMALLEST:
        return size
    tile = fits[0] * (fits[0] // 2 + 1) * 2 * width
    maps = x.shape[0] * (x.shape[1] + out.shape[1])
    return size + site.bytes(weight) + tile * (maps + 2 * weight.shape[0] * weight.shape[1])


def _places(x: Tensor) -> int:
    return numel(x.shape) // max(1, x.shape[1])


def _step(site: Site) -> int:
    stride = site.attribute("stride", 1)
    return int(stride) if isinstance(stride, int) else max((int(one) for one in stride), default=1)


def _rounded(size: int) -> int:
    return -(-size // _ROUND) * _ROUND
