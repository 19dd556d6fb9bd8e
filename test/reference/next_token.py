"""Writes the float32 reference numbers of the next-token test, one JSON file per model.

The states of one token are read by the token-identity prompt and by the logit
lens, layer by layer, and what comes out is held against the model's own next
token. The prompts are sentences of the package with a drawn token in each; the
files hold token ids, so that the test and this script read the same tokens.

Where the two most probable tokens of a reading are all but equal, rounding
chooses between them, and one choice moves a mean by up to 0.3 nat. A prompt with
such a reading says nothing of who computes right, and is left out.
"""

import random
from contextlib import ExitStack

import torch
from make import HERE, MODELS, dump, header, hooked, load_checked, model_folder, rounded, site

SENTENCES = HERE.parent.parent / "src" / "data" / "sentences.txt"
COUNT = 60
LEAST_GAP = 0.01  # nat; llama.cpp's GELU alone moves Gemma's log-probabilities by as much
TARGET = "cat -> cat\n1135 -> 1135\nhello -> hello\n?"  # as in next-token.yaml


def draw(tokenizer):
    """Token ids of each sentence and a position in it, which is never that of BOS."""
    generator = random.Random(0)
    for sentence in SENTENCES.read_text(encoding="utf-8").splitlines():
        tokens = tokenizer(sentence).input_ids
        first = int(tokens[0] == tokenizer.bos_token_id)
        yield {"tokens": tokens, "position": generator.randrange(first, len(tokens))}


def read_states(model, tokens, position):
    """The state behind each block, before any final norm, and the log-probabilities of the model itself."""
    states = []

    def read(module, inputs, output):
        states.append(output[0, position].clone())

    with ExitStack() as stack:
        for layer in range(model.config.num_hidden_layers):
            stack.enter_context(hooked(site(model, layer), read))
        logits = model(torch.tensor([tokens]), use_cache=False).logits
    return torch.stack(states), torch.log_softmax(logits[0, position], dim=-1)


def token_identity(model, target, states):
    """Row l of the batch is the target whose last token has state l behind block l."""

    def replace(layer):
        def hook(module, inputs, output):
            output = output.clone()
            output[layer, -1] = states[layer]
            return output

        return hook

    with ExitStack() as stack:
        for layer in range(len(states)):
            stack.enter_context(hooked(site(model, layer), replace(layer)))
        logits = model(torch.tensor([target] * len(states)), use_cache=False, logits_to_keep=1).logits
    return torch.log_softmax(logits[:, -1], dim=-1)


def logit_lens(model, states):
    return torch.log_softmax(model.lm_head(model.model.norm(states)), dim=-1)


def is_tied(logprobs):
    first, second = logprobs.topk(2, dim=-1).values.unbind(dim=-1)
    return bool((first - second < LEAST_GAP).any())


def scores(patched, own):
    """Of each layer: precision@1, surprisal and surprisal of the model's own token."""
    said = patched.argmax(dim=-1)
    token = own.argmax()
    return torch.stack([(said == token).float(), -own[said], -patched[:, token]], dim=-1)


@torch.inference_mode()
def make(name, folder):
    model, tokenizer = load_checked(name, folder)
    target = tokenizer(TARGET).input_ids
    prompts = []
    cells = {"token-identity": [], "logit-lens": []}
    for drawn, prompt in enumerate(draw(tokenizer), 1):
        states, own = read_states(model, **prompt)
        patched = {"token-identity": token_identity(model, target, states), "logit-lens": logit_lens(model, states)}
        if is_tied(own) or any(is_tied(logprobs) for logprobs in patched.values()):
            continue
        prompts.append(prompt)
        for variant, logprobs in patched.items():
            cells[variant].append(scores(logprobs, own))
        if len(prompts) == COUNT:
            break
    assert len(prompts) == COUNT, "too few sentences"
    curves = {
        variant: [[rounded(value) for value in layer] for layer in torch.stack(rows).double().mean(dim=0).tolist()]
        for variant, rows in cells.items()
    }
    text = dump({**header(model, name), "drawn": drawn, "target": target}, {"prompts": prompts, **curves})
    (HERE / f"next-token-{name}.json").write_text(text, encoding="utf-8")


def main():
    folder = model_folder(__doc__)
    for name in MODELS:
        make(name, folder)


if __name__ == "__main__":
    main()
