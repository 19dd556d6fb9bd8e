"""Times one way to do a job, in a process of its own: peer.py FOLDER TOOL WAY < JOB > RESULT.

FOLDER holds the weights in float32. A job has `threads`, `tokens` (generated for each cell), `batch` (rows at
once) and `cells`: the state at `sourceLayer` and `sourcePosition` of the token ids `source` replaces the one
at `targetLayer` and `targetPosition` of `target`. The result has `seconds`, without the load of the model,
`tokens` of each cell, `peakBytes` of the process, and `versions`.
"""

import importlib
import json
import logging
import re
import sys
import time
from importlib.metadata import version
from pathlib import Path

import torch
import transformers


def load(folder):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    # the end of the text ends no row: every tool generates the same number of tokens
    model.generation_config = transformers.GenerationConfig(do_sample=False, pad_token_id=0)
    return model


def peak_bytes():
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", status)[1])


@torch.inference_mode()
def main():
    folder, tool, way = sys.argv[1:]
    logging.disable(logging.WARNING)
    job = json.load(sys.stdin)
    torch.set_num_threads(job["threads"])
    peer = importlib.import_module(f"with_{tool}").Peer(load(folder), folder)
    work = getattr(peer, way)
    cells, tokens, batch = job["cells"], job["tokens"], job["batch"]
    work(cells[:1], tokens, batch)  # warms up
    begin = time.perf_counter()
    generated = work(cells, tokens, batch)
    seconds = time.perf_counter() - begin
    names = ["torch", "transformers"] + (["nnsight"] if tool == "nnsight" else [])
    result = {
        "seconds": seconds,
        "tokens": generated,
        "peakBytes": peak_bytes(),
        "versions": {name: version(name) for name in names},
    }
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
