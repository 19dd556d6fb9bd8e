"""Writes the float32 reference numbers of the parity test, one JSON file per model.

PyTorch runs the very weights of the GGUF files, dequantised, so that what is
left between these numbers and the addon's is arithmetic and not the model.
"""

import argparse
import hashlib
import json
from contextlib import contextmanager
from pathlib import Path

import gguf
import torch
import transformers

HERE = Path(__file__).resolve().parent
MODELS = {
    "smollm2-135m-instruct": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    "gemma-3-270m": "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
}
TOP = 10

# In a prompt "|" stands right behind the token that is read or replaced; at the
# very start it means position 0, which is BOS where the model has one.
DESCRIBE = (
    "Syria: Country in the Middle East, Leonardo DiCaprio: American actor, Samsung: South Korean "
    "multinational major appliance and consumer electronics corporation, x|"
)
DESCRIBE_INSIDE = "Syria: Country in the Middle East, x|: American actor, Samsung: South Korean"
IDENTITY = "cat -> cat\n1135 -> 1135\nhello -> hello\n?|"
CAPITAL = "The capital city of x| is"
LANGUAGE = "The official language of x| is"
CURRENCY = "The currency of x| is called the"
BORN = "x| was born in the city of"
START = "|x is the name of a"
ALONE = "x|"

DIANA = "Diana, Princess of Wales|"
ALEXANDER = "Alexander the Great|"
EIFFEL = "The Eiffel Tower| is a landmark that many tourists like to photograph"
SPIELBERG = "Jaws is a film by Steven Spielberg| about a shark"
PARIS = "Paris|"
FRANCE = "My cousins moved from Germany to France|"
JAPAN = "Last year we travelled through Japan| by train and by bus"
BANANA = "banana|"
ONCE = "|Once upon a time there was a king"
MOON = (
    "In 1969 the astronauts of Apollo 11 flew to the Moon| and came back safely, "
    "while hundreds of millions of people watched them on television"
)
AUSTRIA = "Die Donau fließt durch Österreich|"
TOKYO = "東京|は日本の首都です"
PROGRAM = "def fibonacci(n):|\n    return n if n < 2 else"

# Fractions of the depth, so that one table serves models of any depth.
LAYERS = {
    "embed": lambda count: "embed",
    "first": lambda count: 0,
    "early": lambda count: count // 4,
    "middle": lambda count: count // 2,
    "late": lambda count: count * 3 // 4,
    "last": lambda count: count - 1,
}

# Source, source layer, target, target layer, text whose first token is followed.
PATCHED = [
    (DIANA, "embed", DESCRIBE, "embed", ":"),
    (DIANA, "first", DESCRIBE, "first", ":"),
    (DIANA, "early", DESCRIBE, "early", ":"),
    (DIANA, "middle", DESCRIBE, "middle", ":"),
    (DIANA, "late", DESCRIBE, "embed", ":"),
    (DIANA, "last", DESCRIBE, "last", ":"),
    (ALEXANDER, "early", DESCRIBE, "first", " the"),
    (ALEXANDER, "middle", DESCRIBE, "embed", ":"),
    (SPIELBERG, "early", DESCRIBE, "early", ":"),
    (SPIELBERG, "middle", DESCRIBE_INSIDE, "embed", " multinational"),
    (EIFFEL, "middle", DESCRIBE_INSIDE, "middle", " multinational"),
    (MOON, "first", DESCRIBE_INSIDE, "late", " multinational"),
    (BANANA, "embed", IDENTITY, "embed", " ->"),
    (BANANA, "early", IDENTITY, "embed", " ->"),
    (PARIS, "middle", IDENTITY, "middle", " ->"),
    (EIFFEL, "last", IDENTITY, "last", " is"),
    (TOKYO, "early", IDENTITY, "first", " ->"),
    (PROGRAM, "late", IDENTITY, "late", "\n"),
    (FRANCE, "embed", CAPITAL, "embed", " Paris"),
    (FRANCE, "early", CAPITAL, "first", " Paris"),
    (JAPAN, "middle", CAPITAL, "early", " Tokyo"),
    (JAPAN, "first", CAPITAL, "middle", " the"),
    (AUSTRIA, "middle", CAPITAL, "embed", " Vienna"),
    (FRANCE, "last", CAPITAL, "last", " the"),
    (JAPAN, "embed", LANGUAGE, "first", " Japanese"),
    (FRANCE, "late", LANGUAGE, "early", " French"),
    (JAPAN, "last", CURRENCY, "embed", " Yen"),
    (AUSTRIA, "first", CURRENCY, "first", " Euro"),
    (SPIELBERG, "late", BORN, "embed", " Chicago"),
    (DIANA, "middle", BORN, "late", " London"),
    (ONCE, "middle", CAPITAL, "middle", " the"),
    (BANANA, "middle", START, "embed", " fruit"),
    (MOON, "middle", START, "middle", " person"),
    (PARIS, "early", ALONE, "embed", ","),
    (MOON, "late", ALONE, "middle", " and"),
    (ONCE, "last", ALONE, "last", ","),
    # Writing a row back where it was read must change nothing.
    (CAPITAL, "middle", CAPITAL, "middle", " the"),
]

# Longer than Gemma's sliding window of 512 tokens.
COUNTING = ", ".join(str(number) for number in range(1, 200))
PLAIN = [DESCRIBE, IDENTITY, CAPITAL, EIFFEL, PROGRAM, COUNTING]
LENS = [DIANA, JAPAN]
LENS_LAYERS = ["embed", "first", "middle", "late", "last"]


def load(path):
    """The model and its tokenizer, with every weight a plain float32 tensor."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent,
        gguf_file=path.name,
        quantization_config=transformers.GgufConfig(dequantize=True),
        dtype=torch.float32,
        attn_implementation="eager",
    )
    check(model, gguf.GGUFReader(path))
    return model.eval(), tokenizer


def check(model, reader):
    """Stops where transformers has read the file differently from what llama.cpp computes."""
    config = model.config
    architecture = reader.fields["general.architecture"].contents()

    def stored(key):
        return reader.fields[f"{architecture}.{key}"].contents()

    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert config.num_hidden_layers == stored("block_count")
    assert config.num_attention_heads == stored("attention.head_count")
    assert config.num_key_value_heads == stored("attention.head_count_kv")
    assert config.rms_norm_eps == stored("attention.layer_norm_rms_epsilon")
    if architecture == "llama":
        assert config.rope_parameters["rope_theta"] == stored("rope.freq_base")
        return
    # llama.cpp fixes these for gemma3: every sixth block attends globally, the
    # others turn by base 10000, and queries are scaled by the head's width.
    kinds = ["full_attention" if i % 6 == 5 else "sliding_attention" for i in range(config.num_hidden_layers)]
    assert config.layer_types == kinds
    assert config.rope_parameters["full_attention"]["rope_theta"] == stored("rope.freq_base")
    assert config.rope_parameters["sliding_attention"]["rope_theta"] == 10000
    assert config.sliding_window == stored("attention.sliding_window")
    assert config.query_pre_attn_scalar == stored("attention.key_length")
    assert config.final_logit_softcapping is None and config.attn_logit_softcapping is None
    # The file holds the norm weights as llama.cpp multiplies by them, transformers adds 1.
    norm = next(tensor for tensor in reader.tensors if tensor.name == "output_norm.weight")
    assert torch.allclose(model.model.norm.weight + 1, torch.tensor(norm.data))


def encode(tokenizer, prompt):
    """Text, token ids and, where the prompt is marked, the marked position."""
    before, mark, after = prompt.partition("|")
    special = prompt != ALONE
    tokens = tokenizer(before + after, add_special_tokens=special).input_ids
    if not mark:
        return {"text": before, "tokens": tokens}
    head = tokenizer(before, add_special_tokens=special).input_ids
    assert tokens[: len(head)] == head, f"the mark cuts a token: {prompt!r}"
    return {"text": before + after, "tokens": tokens, "position": max(len(head) - 1, 0)}


def site(model, layer):
    """The module whose output is the residual stream behind `layer`, before any final norm."""
    return model.model.embed_tokens if layer == "embed" else model.model.layers[layer]


@contextmanager
def hooked(module, hook):
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def forward(model, tokens):
    """Log-probabilities of the token that follows."""
    logits = model(torch.tensor([tokens]), use_cache=False, logits_to_keep=1).logits
    return torch.log_softmax(logits[0, -1], dim=-1)


def read_state(model, tokens, position, layer):
    rows = []
    with hooked(site(model, layer), lambda module, inputs, output: rows.append(output[0, position].clone())):
        forward(model, tokens)
    return rows[0]


def forward_patched(model, tokens, position, layer, state):
    def replace(module, inputs, output):
        output = output.clone()
        output[0, position] = state
        return output

    with hooked(site(model, layer), replace):
        return forward(model, tokens)


def rounded(value):
    return round(value, 6) + 0.0  # never -0.0


def top(logprobs):
    values, ids = logprobs.topk(TOP)
    return [[token, rounded(value)] for token, value in zip(ids.tolist(), values.tolist())]


def follow(logprobs, token):
    """Rank 0 is the most likely token."""
    rank = int((logprobs > logprobs[token]).sum())
    return {"id": token, "logprob": rounded(logprobs[token].item()), "rank": rank}


def plain_case(model, tokenizer, prompt):
    case = encode(tokenizer, prompt.replace("|", ""))
    return {**case, "top": top(forward(model, case["tokens"]))}


def lens_case(model, tokenizer, prompt, layer):
    case = {**encode(tokenizer, prompt), "layer": layer}
    state = read_state(model, case["tokens"], case["position"], layer)
    logits = model.lm_head(model.model.norm(state))
    return {**case, "top": top(torch.log_softmax(logits, dim=-1))}


def patched_case(model, tokenizer, source, target, text):
    state = read_state(model, source["tokens"], source["position"], source["layer"])
    logprobs = forward_patched(model, target["tokens"], target["position"], target["layer"], state)
    token = tokenizer(text, add_special_tokens=False).input_ids[0]
    return {"source": source, "target": target, "top": top(logprobs), "token": follow(logprobs, token)}


def cases(model, tokenizer):
    def layer(name):
        return LAYERS[name](model.config.num_hidden_layers)

    def place(prompt, name):
        return {**encode(tokenizer, prompt), "layer": layer(name)}

    return {
        "plain": [plain_case(model, tokenizer, prompt) for prompt in PLAIN],
        "lens": [lens_case(model, tokenizer, prompt, layer(name)) for prompt in LENS for name in LENS_LAYERS],
        "patched": [
            patched_case(model, tokenizer, place(source, reading), place(target, writing), text)
            for source, reading, target, writing, text in PATCHED
        ],
    }


def header(model, name):
    return {
        "model": name,
        "sha256": MODELS[name],
        "layers": model.config.num_hidden_layers,
        "width": model.config.hidden_size,
        "vocabulary": model.config.vocab_size,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def dump(header, lists):
    """JSON with one case per line."""
    parts = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in header.items()]
    for key, rows in lists.items():
        lines = ",\n".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows)
        parts.append(f"{json.dumps(key)}: [\n{lines}\n]")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def load_checked(name, folder):
    path = folder / f"{name}.gguf"
    with path.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == MODELS[name], f"{path} is another file"
    return load(path)


@torch.inference_mode()
def make(name, folder):
    model, tokenizer = load_checked(name, folder)
    text = dump(header(model, name), cases(model, tokenizer))
    (HERE / f"{name}.json").write_text(text, encoding="utf-8")


def model_folder(description):
    """Of the command line, with PyTorch made ready."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    default = Path.home() / ".cache" / "patchscopes" / "models"
    parser.add_argument("--models", type=Path, default=default, help="folder of the GGUF files")
    torch.set_num_threads(1)  # the order of summation, hence the last decimals, must not vary
    return parser.parse_args().models


def main():
    folder = model_folder(__doc__)
    for name in MODELS:
        make(name, folder)


if __name__ == "__main__":
    main()
