"""One small operator of every family, for dry runs on a processor."""

_CONV = {"n": 1, "c_in": 4, "h": 6, "w": 6, "c_out": 4, "kernel": 3, "stride": 1, "padding": 1}
_ATTN = {"op": "attention", "batch": 1, "q_heads": 2, "head_dim": 16, "dtype": "fp32"}

TINY = [
    *({"op": "gemm", "m": 32, "n": 16, "k": 16, "dtype": d}
      for d in ("bf16", "fp16", "tf32", "fp32", "fp8_e4m3", "int8")),
    {"op": "gemm", "m": 8, "n": 8, "k": 8, "batch": 3, "dtype": "bf16"},
    {"op": "grouped_gemm", "groups": 2, "m": 8, "n": 16, "k": 16, "dtype": "bf16"},
    _ATTN | {"kv_heads": 2, "q_len": 8, "kv_len": 8, "causal": True},
    _ATTN | {"kv_heads": 1, "q_len": 8, "kv_len": 8, "causal": False},
    _ATTN | {"kv_heads": 1, "q_len": 1, "kv_len": 8, "causal": False},
    _ATTN | {"kv_heads": 1, "q_len": 8, "kv_len": 8, "causal": True, "pass": "bwd"},
    *({"op": "conv2d", **_CONV, "groups": g, "layout": y, "pass": p, "dtype": "fp32"}
      for g, y, p in ((1, "nhwc", "fwd"), (2, "nchw", "dgrad"), (4, "nhwc", "wgrad"))),
    {"op": "conv3d", **_CONV, "depth": 5, "layout": "nhwc", "pass": "wgrad", "dtype": "fp32"},
    *({"op": o, "rows": 4, "cols": 16, "dtype": "bf16"}
      for o in ("rmsnorm", "layernorm", "softmax")),
    *({"op": "elementwise", "kind": k, "numel": 64, "dtype": "bf16"}
      for k in ("add", "mul", "gelu", "silu", "relu", "copy")),
    {"op": "embedding", "tokens": 4, "vocab": 50, "dim": 8, "dtype": "bf16"},
    {"op": "cross_entropy", "tokens": 4, "vocab": 50, "dtype": "bf16"},
    {"op": "adamw", "numel": 64},
    {"op": "sgd", "numel": 64},
    {"op": "rope", "tokens": 4, "heads": 2, "head_dim": 8, "dtype": "bf16"},
    {"op": "topk", "tokens": 4, "experts": 8, "top_k": 2, "dtype": "bf16"},
    *({"op": "permute", "kind": k, "tokens": 4, "dim": 8, "top_k": 2, "dtype": "bf16"}
      for k in ("gather", "scatter")),
    *({"op": "scatter_add", "kind": k, "rows": 9, "cols": 4, "targets": 5, "dtype": "fp32"}
      for k in ("index_add", "scatter_add")),
    *({"op": "fft", "kind": k, "batch": 2, "n": 16}
      for k in ("fft", "rfft", "irfft", "irfft_unscaled")),
    *({"op": "fft", "kind": k, "batch": 2, "rows": 6, "n": 10}
      for k in ("fft2", "rfft2", "irfft2")),
    *({"op": "recurrent", "kind": k, "steps": 3, "batch": 2, "width": 4, "hidden": 8, "layers": n,
       "ways": w, "pass": p, "dtype": "fp32"}
      for k, n, w, p in (("lstm", 2, 2, "bwd"), ("gru", 1, 1, "train"), ("rnn_tanh", 1, 1, "fwd"))),
    {"op": "spmm", "kind": "csr", "m": 16, "n": 8, "k": 16, "density": 0.25, "dtype": "fp32"},
    {"op": "memcpy", "kind": "d2d", "bytes": 1024},
    {"op": "memcpy", "kind": "h2d", "bytes": 1024, "pinned": False},
    {"op": "memcpy", "kind": "d2h", "bytes": 1024, "pinned": False},
    {"op": "host", "kind": "eager_add"},
    {"op": "host", "kind": "module_call"},
]  # fmt: skip
