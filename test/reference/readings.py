"""Writes float32 reference numbers of other readings than a plain patch, one JSON file per model: edits of matched
norm, a lens with a translator, cut attention, restored runs and contrasted runs.

Noise and translators follow from a formula, so that both sides have the same and no file holds them.
"""

import math
from contextlib import ExitStack, contextmanager

import torch

from make import HERE, MODELS, dump, encode, header, hooked, load_checked, model_folder, read_state, rounded, site, top

FRANCE = "My cousins moved from Germany to France|"
CAPITAL = "The capital city of x| is"
EIFFEL = "The Eiffel Tower| is a landmark in the city of"
MOON = "The first person who walked on the Moon| was the astronaut Neil"
CAT = "My cat| sleeps all day and"

ALPHAS = [0.5, 1, 4]
WINDOW = 10
STEPS = 8


def waves(count, start, size):
    """(count) floats of about `size`, the same in any language."""
    return torch.tensor([size * math.sin(12.9898 * (start + i) + 1) for i in range(count)], dtype=torch.float32)


def layers_of(model):
    count = model.config.num_hidden_layers
    return [0, count // 4, count // 2, count * 3 // 4]


def part(model, kind, layer):
    """The module that gives what is added to the residual stream, or the stream behind the block."""
    block = model.model.layers[layer]
    if kind == "resid_out":
        return block
    is_gemma = hasattr(block, "pre_feedforward_layernorm")
    if kind == "attn_out":
        return block.post_attention_layernorm if is_gemma else block.self_attn
    return block.post_feedforward_layernorm if is_gemma else block.mlp


def changed(output, change):
    """The output with its rows changed; attention gives weights beside them."""
    rows = (output[0] if isinstance(output, tuple) else output).clone()
    change(rows[0])
    return (rows, *output[1:]) if isinstance(output, tuple) else rows


@contextmanager
def edited(module, change):
    with hooked(module, lambda _module, _inputs, output: changed(output, change)):
        yield


@contextmanager
def cut(model, layers, queries, keys):
    """In these layers the queries do not attend to the keys."""

    def hook(_module, args, kwargs):
        mask = kwargs["attention_mask"].clone()
        for query in queries:
            for key in keys:
                mask[..., query, key] = torch.finfo(mask.dtype).min
        return args, {**kwargs, "attention_mask": mask}

    handles = [
        model.model.layers[layer].self_attn.register_forward_pre_hook(hook, with_kwargs=True) for layer in layers
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def logits(model, tokens):
    """Of the token that follows."""
    return model(torch.tensor([tokens]), use_cache=False, logits_to_keep=1).logits[0, -1]


def scored(values):
    return top(torch.log_softmax(values, dim=-1))


def matched_case(model, source, target, layer, alpha):
    vector = read_state(model, source["tokens"], source["position"], layer)

    def change(rows):
        state = rows[target["position"]]
        rows[target["position"]] = state + alpha * state.norm() * vector / vector.norm()

    with edited(part(model, "resid_out", layer), change):
        values = logits(model, target["tokens"])
    return {"source": source, "target": target, "layer": layer, "alpha": alpha, "top": scored(values)}


def translator(width):
    """W and b of a map near the identity."""
    weights = torch.stack([waves(width, row * width, 0.02) for row in range(width)])
    return torch.eye(width) + weights, waves(width, 7, 0.1)


def translated_case(model, place, layer, weights, bias):
    state = read_state(model, place["tokens"], place["position"], layer)
    values = model.lm_head(model.model.norm(weights @ state + bias))
    return {**place, "layer": layer, "top": scored(values)}


def cut_case(model, place, layers, queries, keys):
    with cut(model, layers, queries, keys):
        values = logits(model, place["tokens"])
    return {**place, "layers": layers, "from": queries, "to": keys, "top": scored(values)}


@contextmanager
def noised(model, tokens, size):
    width = model.config.hidden_size

    def change(rows):
        for token in tokens:
            rows[token] += waves(width, token * width, size)

    with edited(site(model, "embed"), change):
        yield


def outputs(model, tokens, kind):
    """Rows of each layer, (layers, tokens, width)."""
    rows = []

    def keep(_module, _inputs, output):
        rows.append((output[0] if isinstance(output, tuple) else output)[0].clone())

    with ExitStack() as stack:
        for layer in range(model.config.num_hidden_layers):
            stack.enter_context(hooked(part(model, kind, layer), keep))
        logits(model, tokens)
    return torch.stack(rows)


def restored_case(model, place, subject, size, kind, layer, window):
    """The prompt with noise on its subject, in which the clean rows of a window of layers come back at one token."""
    count = model.config.num_hidden_layers
    layers = [k for k in range(layer - window // 2, layer - window // 2 + window) if 0 <= k < count]
    clean = outputs(model, place["tokens"], kind)
    position = place["position"]

    def restore(k):
        def change(rows):
            rows[position] = clean[k, position]

        return change

    with ExitStack() as stack:
        stack.enter_context(noised(model, subject, size))
        for k in layers:
            stack.enter_context(edited(part(model, kind, k), restore(k)))
        values = logits(model, place["tokens"])
    return {
        **place,
        **{"subject": subject, "size": size, "site": kind, "layer": layer, "window": window},
        "top": scored(values),
    }


def corrupted_case(model, place, subject, size):
    with noised(model, subject, size):
        values = logits(model, place["tokens"])
    return {**place, "subject": subject, "size": size, "top": scored(values)}


def contrasted_case(model, source, target, layer, alpha, cutoff):
    """z = z_p + a (z_p - z_u) at each step, over tokens of at least a part of the largest patched probability."""
    vector = read_state(model, source["tokens"], source["position"], layer)
    tokens, steps = list(target["tokens"]), []

    def change(rows):
        rows[target["position"]] = vector

    for _ in range(STEPS):
        with edited(part(model, "resid_out", layer), change):
            patched = logits(model, tokens)
        plain = logits(model, tokens)
        values = patched + alpha * (patched - plain)
        values[patched < patched.max() + (math.log(cutoff) if cutoff > 0 else -math.inf)] = -math.inf
        logprobs = torch.log_softmax(values, dim=-1)
        chosen = int(logprobs.argmax())
        steps.append([chosen, rounded(logprobs[chosen].item())])
        tokens.append(chosen)
    return {
        **{"source": source, "target": target, "layer": layer, "alpha": alpha, "cutoff": cutoff},
        "steps": steps,
    }


def cases(model, tokenizer):
    france, capital, eiffel, moon, cat = (
        encode(tokenizer, prompt) for prompt in [FRANCE, CAPITAL, EIFFEL, MOON, CAT]
    )
    layers = layers_of(model)
    count = model.config.num_hidden_layers
    weights, bias = translator(model.config.hidden_size)
    size = 3 * site(model, "embed").weight.std().item()
    # of gemma's embeddings, which its blocks meet scaled
    size *= math.sqrt(model.config.hidden_size) if model.config.model_type.startswith("gemma") else 1
    size = rounded(size)
    traced = [(place, list(range(1, place["position"] + 1))) for place in [eiffel, moon]]
    return {
        "matched": [
            matched_case(model, source, target, layer, alpha)
            for source, target in [(france, capital), (moon, cat)]
            for layer in layers
            for alpha in ALPHAS
        ],
        "translated": [
            translated_case(model, place, layer, weights, bias) for place in [france, moon] for layer in layers
        ],
        "cut": [
            cut_case(model, place, list(range(first, min(count, first + WINDOW))), [len(place["tokens"]) - 1], keys)
            for place, keys in traced
            for first in layers
        ],
        "corrupted": [corrupted_case(model, place, subject, size) for place, subject in traced],
        "restored": [
            restored_case(model, place, subject, size, kind, layer, window)
            for place, subject in traced
            for kind, window in [("resid_out", 1), ("mlp_out", WINDOW), ("attn_out", WINDOW)]
            for layer in layers
        ],
        "contrasted": [
            contrasted_case(model, source, target, layer, alpha, cutoff)
            for source, target in [(france, capital), (moon, cat)]
            for layer in layers[:2]
            for alpha, cutoff in [(0.5, 0), (1, 0.1)]
        ],
    }


@torch.inference_mode()
def main():
    folder = model_folder(__doc__)
    for name in MODELS:
        model, tokenizer = load_checked(name, folder)
        text = dump(header(model, name), cases(model, tokenizer))
        (HERE / f"readings-{name}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
