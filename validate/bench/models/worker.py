"""A child process that answers requests over a pipe."""

from __future__ import annotations

import gc
import os
import re
import sys
import time
import traceback
from typing import Any

from validate.bench.models.cases import Case

_PATHS = re.compile(r"(/[\w.\-]+)+/")


def _reason(error: BaseException) -> str:
    """First lines of an error, without folders."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return _PATHS.sub("", text)[:300]


def serve(pipe: Any, device: str, tiny: bool) -> None:
    """Answer ``(command, case)`` until None comes; commands: ``prepare``, ``run``, ``profile``."""
    import torch

    from validate.bench.models import state
    from validate.bench.models.session import Session, alive

    kept = state.keep_memory()
    if not tiny:
        torch.set_num_threads(1)
    try:
        session = Session(device, tiny)
        if device == "cuda":
            torch.zeros(8, device="cuda").add_(1)
            torch.cuda.synchronize()
        gc.collect()
        gc.freeze()  # what was imported: collecting between cases need not walk over it
        pipe.send({"ready": True})
    except Exception as error:
        pipe.send({"error": _reason(error), "fatal": True})
        return
    while True:
        request = pipe.recv()
        if request is None:
            del kept
            os._exit(0)
        command, case = request
        assert_case: Case = case
        begin = time.perf_counter()
        try:
            if command == "prepare":
                session.prepare_patiently(assert_case)
                answer: dict[str, Any] = {}
            elif command == "profile":
                answer = session.profile(assert_case)
                session.drop()
            else:
                answer = session.run(assert_case)
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            answer = {"error": _reason(error)}
            del error
            session._step = None
            gc.collect()
            if device == "cuda" and not alive():
                answer["fatal"] = True
            elif "error" in answer:
                session.drop()
        answer["case_s"] = time.perf_counter() - begin
        pipe.send(answer)
