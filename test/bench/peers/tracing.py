"""Causal tracing by forward hooks, as in code around that method: tracing.py FOLDER < JOB > RESULT.

A job has `threads`, `tokens` (the prompt), `noised` (positions), `seeds`, `positions` and `batch`. For each site,
layer and position a batch holds one row for each seed: noise is added to the embeddings, and the clean state of that
place comes back. The result has `seconds`, without the load, and `tokens`: the most probable one of each row.
"""

import json
import logging
import sys
import time
from contextlib import ExitStack

import torch

from peer import load
from with_hooks import hooked

SIGMA = 0.1


def rows_of(output):
    return output[0] if isinstance(output, tuple) else output


def sites(layer):
    return [layer, layer.self_attn, layer.mlp]


def clean(model, ids):
    """The rows of each site of each layer."""
    kept = {}
    with ExitStack() as hooks:
        for layer, block in enumerate(model.model.layers):
            for site, module in enumerate(sites(block)):

                def keep(module, inputs, output, at=(layer, site)):
                    kept[at] = rows_of(output)[0].clone()

                hooks.enter_context(hooked(module, keep))
        model(ids, use_cache=False, logits_to_keep=1)
    return kept


def trace(model, job, places, states):
    tokens, noised, seeds = job["tokens"], job["noised"], job["seeds"]
    ids = torch.tensor([tokens] * seeds)
    generator = torch.Generator().manual_seed(0)
    noise = SIGMA * torch.randn(seeds, len(noised), model.config.hidden_size, generator=generator)

    def add_noise(module, inputs, output):
        output[:, noised] += noise
        return output

    said = []
    for layer, site, position in places:

        def restore(module, inputs, output):
            rows_of(output)[:, position] = states[layer, site][position]
            return output

        with hooked(model.model.embed_tokens, add_noise):
            with hooked(sites(model.model.layers[layer])[site], restore):
                logits = model(ids, use_cache=False, logits_to_keep=1).logits
        said.append(logits[:, -1].argmax(-1).tolist())
    return said


@torch.inference_mode()
def main():
    logging.disable(logging.WARNING)
    job = json.load(sys.stdin)
    torch.set_num_threads(job["threads"])
    model = load(sys.argv[1])
    places = [
        (layer, site, position)
        for position in job["positions"]
        for site in range(3)
        for layer in range(len(model.model.layers))
    ][:: job["nth"]]
    states = clean(model, torch.tensor([job["tokens"]]))
    trace(model, job, places[:1], states)  # warms up
    begin = time.perf_counter()
    trace(model, job, places, states)
    json.dump({"seconds": time.perf_counter() - begin, "rows": len(places) * job["seeds"]}, sys.stdout)


if __name__ == "__main__":
    main()
