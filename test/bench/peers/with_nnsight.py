"""nnsight: the same patches as interventions of its traces."""

import torch
from nnsight import TransformersModel
from transformers import AutoTokenizer

from cells import batches, by_layer, by_source, key


class Peer:
    def __init__(self, model, folder):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = TransformersModel(model, task="text-generation", tokenizer=tokenizer)

    def one(self, cells, tokens, batch):
        """One patch at a time, its source first."""
        generated = []
        for cell in cells:
            states = self.states([cell])
            generated += self.patched([cell], states, tokens)
        return generated

    def batched(self, cells, tokens, batch):
        """Each source once, whole target prompts side by side."""
        states = self.states(cells)
        generated = [None] * len(cells)
        for indexes in batches(cells, batch):
            taken = self.patched([cells[index] for index in indexes], states, tokens)
            for index, row in zip(indexes, taken):
                generated[index] = row
        return generated

    def states(self, cells):
        model = self.model
        states = {}
        for source, own in by_source(cells):
            layers = sorted({cell["sourceLayer"] for cell in own})
            with model.trace(torch.tensor([source]), use_cache=False, logits_to_keep=1):
                outputs = [model.model.layers[layer].output[0].clone() for layer in layers].save()
            found = dict(zip(layers, outputs))
            for cell in own:
                states[key(cell)] = found[cell["sourceLayer"]][cell["sourcePosition"]]
        return states

    def patched(self, rows, states, tokens):
        model = self.model
        ids = torch.tensor([row["target"] for row in rows])
        edits = [
            (
                layer,
                places,
                [rows[place]["targetPosition"] for place in places],
                torch.stack([states[key(rows[place])] for place in places]),
            )
            for layer, places in by_layer(rows)
        ]
        if tokens == 1:
            with model.trace(ids, use_cache=False, logits_to_keep=1):
                for layer, places, positions, values in edits:
                    model.model.layers[layer].output[places, positions] = values
                taken = model.lm_head.output[:, -1:].argmax(-1).save()
            return taken.tolist()
        with model.generate(ids, max_new_tokens=tokens) as tracer:
            for layer, places, positions, values in edits:
                model.model.layers[layer].output[places, positions] = values
            whole = tracer.result.save()
        return whole[:, ids.shape[1] :].tolist()
