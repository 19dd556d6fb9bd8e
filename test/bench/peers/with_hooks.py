"""transformers with forward hooks."""

import copy
from contextlib import ExitStack, contextmanager

import torch
from transformers import DynamicCache

from cells import batches, by_layer, by_source, key


@contextmanager
def hooked(module, hook):
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def replace(places, positions, states):
    """Acts while the prompt is read; later tokens see it through the K/V cache."""

    def hook(module, inputs, output):
        if output.shape[1] > max(positions):
            output[places, positions] = states
        return output

    return hook


class Peer:
    def __init__(self, model, folder):
        self.model = model
        self.layers = model.model.layers

    def one(self, cells, tokens, batch):
        """One patch at a time, its source first, as in the code that came with the paper."""
        generated = []
        for cell in cells:
            state = self.states([cell])[key(cell)]
            ids = torch.tensor([cell["target"]])
            hook = replace([0], [cell["targetPosition"]], state)
            with hooked(self.layers[cell["targetLayer"]], hook):
                generated += self.generate(ids, tokens)
        return generated

    def batched(self, cells, tokens, batch):
        """Each source once, whole target prompts side by side."""
        states = self.states(cells)

        def work(rows):
            positions = [row["targetPosition"] for row in rows]
            with self.patched(rows, positions, states):
                return self.generate(torch.tensor([row["target"] for row in rows]), tokens)

        return self.each_batch(cells, batch, work)

    def shared(self, cells, tokens, batch):
        """As `batched`, and what comes before the patched position is computed once, by hand."""
        states = self.states(cells)
        prefixes = {}

        def work(rows):
            target = rows[0]["target"]
            first = min(row["targetPosition"] for row in rows)
            prefix = tuple(target[:first])
            if prefix not in prefixes:
                prefixes[prefix] = DynamicCache()
                self.model(torch.tensor([prefix]), cache=prefixes[prefix], logits_to_keep=1)
            cache = copy.deepcopy(prefixes[prefix])
            cache.batch_repeat_interleave(len(rows))
            ids = torch.tensor([row["target"][first:] for row in rows])
            taken = []
            positions = [row["targetPosition"] - first for row in rows]
            for step in range(tokens):
                with self.patched(rows, positions, states) if step == 0 else ExitStack():
                    logits = self.model(ids, cache=cache, logits_to_keep=1).logits
                ids = logits[:, -1].argmax(-1, keepdim=True)
                taken.append(ids)
            return torch.cat(taken, 1).tolist()

        return self.each_batch(cells, batch, work)

    def each_batch(self, cells, batch, work):
        generated = [None] * len(cells)
        for indexes in batches(cells, batch):
            for index, tokens in zip(indexes, work([cells[index] for index in indexes])):
                generated[index] = tokens
        return generated

    @contextmanager
    def patched(self, rows, positions, states):
        with ExitStack() as hooks:
            for layer, places in by_layer(rows):
                values = torch.stack([states[key(rows[place])] for place in places])
                hook = replace(places, [positions[place] for place in places], values)
                hooks.enter_context(hooked(self.layers[layer], hook))
            yield

    def states(self, cells):
        """The states that cells need, each prompt read once."""
        states = {}
        for source, own in by_source(cells):
            outputs = {}
            with ExitStack() as hooks:
                for layer in {cell["sourceLayer"] for cell in own}:

                    def keep(module, inputs, output, layer=layer):
                        outputs[layer] = output[0].clone()

                    hooks.enter_context(hooked(self.layers[layer], keep))
                self.model(torch.tensor([source]), use_cache=False, logits_to_keep=1)
            for cell in own:
                states[key(cell)] = outputs[cell["sourceLayer"]][cell["sourcePosition"]]
        return states

    def generate(self, ids, tokens):
        if tokens == 1:
            logits = self.model(ids, use_cache=False, logits_to_keep=1).logits
            return logits[:, -1:].argmax(-1).tolist()
        mask = torch.ones_like(ids)
        return self.model.generate(ids, attention_mask=mask, max_new_tokens=tokens)[:, ids.shape[1] :].tolist()
