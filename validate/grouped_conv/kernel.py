# ruff: noqa: ANN001, ANN201, ANN202, SIM102, PLR0915 - the kernel language, not Python
"""The persistent kernel: one program a slot, each walking its own list of tiles.

A tile is ``(group, row block, column block, config)``. A convolution is an implicit matrix product
of M = n*p*q rows, N = the group's outputs, K = taps x the group's inputs; K is walked flat (taps
and channels together), so that groups of few channels waste few lanes. ``MODE`` says how a lane of
K finds its input element: 0 one tap per step (channels contiguous), 1 by division (channels
contiguous), 2 through a table of offsets (any channels, in any order, shared between groups).

``VEC`` is how many neighbouring channels are known to be contiguous and aligned: 8 is a 16-byte
load of 2-byte elements.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import globaltimer, smid


@triton.jit
def _tile(
    x_ptr, w_ptr, y_ptr, taps_ptr, offs_ptr,
    rows, height, width, channels, out_h, out_w, outputs, stride, pad, dilation,
    kernel, cg, c0, og, opad, w_off, out_off, k_off, mb, nb,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, MODE: tl.constexpr,
    VEC: tl.constexpr, OVEC: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    rm = mb * BM + tl.arange(0, BM)
    rn = nb * BN + tl.arange(0, BN)
    row_ok = rm < rows
    line = rm // out_w
    ih0 = (line % out_h) * stride - pad
    iw0 = (rm % out_w) * stride - pad
    base = (((line // out_h) * height + ih0) * width + iw0) * channels
    base = tl.multiple_of(base, VEC)
    acc = tl.zeros((BM, BN), dtype=tl.float32)
    lane = tl.arange(0, BK)
    col_ok = rn < opad
    w_base = w_ptr + w_off + rn
    if MODE == 0:
        per_tap = (cg + BK - 1) // BK
        for step in tl.range(0, kernel * kernel * per_tap, num_stages=STAGES):
            tap = step // per_tap
            c = (step - tap * per_tap) * BK + lane
            kh = (tap // kernel) * dilation
            kw = (tap % kernel) * dilation
            ih = ih0 + kh
            iw = iw0 + kw
            inside = row_ok & (ih >= 0) & (ih < height) & (iw >= 0) & (iw < width)
            start = tl.multiple_of((kh * width + kw) * channels + c0, VEC)
            # (c // VEC * VEC < cg) is constant over each aligned run because VEC divides cg
            alive = tl.max_constancy(c < cg, VEC)
            a = tl.load(
                x_ptr + (base + start)[:, None] + c[None, :],
                mask=inside[:, None] & alive[None, :],
                other=0.0,
            )
            b = tl.load(
                w_base[None, :] + (tap * cg + c)[:, None] * opad,
                mask=(c < cg)[:, None] & col_ok[None, :],
                other=0.0,
            )
            acc = tl.dot(a, b, acc)
    else:
        depth = kernel * kernel * cg
        for step in tl.range(0, (depth + BK - 1) // BK, num_stages=STAGES):
            k = step * BK + lane
            if MODE == 1:
                tap = k // cg
                kh = (tap // kernel) * dilation
                kw = (tap % kernel) * dilation
                off = (kh * width + kw) * channels + c0 + (k - tap * cg)
                off = tl.max_contiguous(tl.multiple_of(off, VEC), VEC)
            else:
                off = tl.load(offs_ptr + k_off + k, mask=k < depth, other=0)
                packed = tl.load(taps_ptr + k_off + k, mask=k < depth, other=0)
                kh = packed // 1024
                kw = packed % 1024
            alive = k < depth
            kh = tl.where(alive, kh, 1 << 20)
            kh = tl.max_constancy(kh, VEC)
            kw = tl.max_constancy(kw, VEC)
            ih = ih0[:, None] + kh[None, :]
            iw = iw0[:, None] + kw[None, :]
            inside = (ih >= 0) & (ih < height) & (iw >= 0) & (iw < width) & row_ok[:, None]
            a = tl.load(x_ptr + base[:, None] + off[None, :], mask=inside, other=0.0)
            b = tl.load(
                w_base[None, :] + k[:, None] * opad,
                mask=alive[:, None] & col_ok[None, :],
                other=0.0,
            )
            acc = tl.dot(a, b, acc)
    row_at = tl.multiple_of(rm * outputs + out_off, OVEC)
    written = tl.max_constancy(rn < og, OVEC)
    tl.store(
        y_ptr + row_at[:, None] + rn[None, :],
        acc.to(y_ptr.dtype.element_ty),
        mask=row_ok[:, None] & written[None, :],
    )


@triton.jit(do_not_specialize=["rows", "channels", "eighths"])
def pack_channels(
    x_ptr, y_ptr, index_ptr, rows, channels, eighths, BM: tl.constexpr, BN: tl.constexpr
):  # fmt: skip
    """``y[m, j] = x[m, index[j]]``, or 0 where the index is negative; y is 8 * eighths wide."""
    width = eighths * 8
    rm = tl.program_id(0) * BM + tl.arange(0, BM)
    at = tl.program_id(1) * BN + tl.arange(0, BN)
    inside = (rm < rows)[:, None] & (at < width)[None, :]
    index = tl.load(index_ptr + at, mask=at < width, other=-1)
    value = tl.load(
        x_ptr + rm[:, None] * channels + index[None, :],
        mask=inside & (index >= 0)[None, :],
        other=0.0,
    )
    tl.store(y_ptr + rm[:, None] * width + at[None, :], value, mask=inside)


SCALARS = (
    "rows", "height", "width", "channels_v", "out_h", "out_w", "outputs", "stride", "pad",
    "dilation", "kernel",
)  # fmt: skip


@triton.jit(do_not_specialize=SCALARS)
def run_schedule(
    x_ptr, w_ptr, y_ptr, taps_ptr, offs_ptr, first_ptr, tiles_ptr, groups_ptr, timer_ptr,
    rows, height, width, channels_v, out_h, out_w, outputs, stride, pad, dilation, kernel,
    BM0: tl.constexpr, BN0: tl.constexpr, BK0: tl.constexpr,
    BM1: tl.constexpr, BN1: tl.constexpr, BK1: tl.constexpr,
    BM2: tl.constexpr, BN2: tl.constexpr, BK2: tl.constexpr,
    COUNT: tl.constexpr, MODE: tl.constexpr, VEC: tl.constexpr, OVEC: tl.constexpr,
    STAGES: tl.constexpr, TIMERS: tl.constexpr,
):  # fmt: skip
    """Walk this slot's tiles; with ``TIMERS`` write (begin [ns], end [ns], SM) per slot."""
    slot = tl.program_id(0)
    if TIMERS:
        tl.store(timer_ptr + slot * 3, globaltimer())
    channels = channels_v * VEC
    begin = tl.load(first_ptr + slot)
    end = tl.load(first_ptr + slot + 1)
    for at in tl.range(begin, end, num_stages=1):
        group = tl.load(tiles_ptr + at * 4)
        mb = tl.load(tiles_ptr + at * 4 + 1)
        nb = tl.load(tiles_ptr + at * 4 + 2)
        config = tl.load(tiles_ptr + at * 4 + 3)
        row = groups_ptr + group * 8
        cg = tl.load(row)
        c0 = tl.load(row + 1)
        og = tl.load(row + 2)
        opad = tl.multiple_of(tl.load(row + 3), 16)
        w_off = tl.multiple_of(tl.load(row + 4), 16)
        out_off = tl.load(row + 5)
        k_off = tl.load(row + 6)
        if config == 0:
            _tile(
                x_ptr, w_ptr, y_ptr, taps_ptr, offs_ptr,
                rows, height, width, channels, out_h, out_w, outputs, stride, pad, dilation,
                kernel, cg, c0, og, opad, w_off, out_off, k_off, mb, nb,
                BM0, BN0, BK0, MODE, VEC, OVEC, STAGES,
            )  # fmt: skip
        if COUNT > 1:
            if config == 1:
                _tile(
                    x_ptr, w_ptr, y_ptr, taps_ptr, offs_ptr,
                    rows, height, width, channels, out_h, out_w, outputs, stride, pad, dilation,
                    kernel, cg, c0, og, opad, w_off, out_off, k_off, mb, nb,
                    BM1, BN1, BK1, MODE, VEC, OVEC, STAGES,
                )  # fmt: skip
        if COUNT > 2:
            if config == 2:
                _tile(
                    x_ptr, w_ptr, y_ptr, taps_ptr, offs_ptr,
                    rows, height, width, channels, out_h, out_w, outputs, stride, pad, dilation,
                    kernel, cg, c0, og, opad, w_off, out_off, k_off, mb, nb,
                    BM2, BN2, BK2, MODE, VEC, OVEC, STAGES,
                )  # fmt: skip
    if TIMERS:
        tl.store(timer_ptr + slot * 3 + 1, globaltimer())
        tl.store(timer_ptr + slot * 3 + 2, smid().to(tl.int64))
