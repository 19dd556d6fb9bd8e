"""Writes a GGUF file's weights, dequantised, as float32 safetensors: weights.py GGUF FOLDER."""

import sys
from pathlib import Path

import torch
import transformers

path, folder = Path(sys.argv[1]), Path(sys.argv[2])
model = transformers.AutoModelForCausalLM.from_pretrained(
    path.parent,
    gguf_file=path.name,
    quantization_config=transformers.GgufConfig(dequantize=True),
    dtype=torch.float32,
)
assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
model.save_pretrained(folder)
tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
tokenizer.save_pretrained(folder)
