"""world.gguf: written from a trained model, and read back as the float32 values of what was stored."""

import gguf
import numpy as np
import torch

from model import CONTEXT, HEADS, HIDDEN, LAYERS, NORM_EPSILON, ROPE_BASE, WIDTH, Model
from world import BOS, SPECIAL, pieces


def write_gguf(model, path):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("patchscopes test world")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(NORM_EPSILON)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(ROPE_BASE)
    write_tokenizer(writer)
    for name, tensor in model.state_dict().items():
        writer.add_tensor(name, tensor.numpy().astype(np.float16 if tensor.dim() == 2 else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_tokenizer(writer):
    """SPM merges a word letter by letter: every prefix is a piece and a longer one scores higher."""
    tokens = pieces()
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores([float(len(piece)) if piece.startswith("\u2581") else 0.0 for piece in tokens])
    writer.add_token_types([piece_type(piece) for piece in tokens])
    writer.add_unk_token_id(SPECIAL.index("<unk>"))
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(SPECIAL.index("</s>"))
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(True)


def piece_type(piece):
    if piece == "<unk>":
        return gguf.TokenType.UNKNOWN
    if piece in SPECIAL:
        return gguf.TokenType.CONTROL
    return gguf.TokenType.BYTE if piece.startswith("<0x") else gguf.TokenType.NORMAL


def read_gguf(path):
    """The model with the weights as rounded in the file."""
    tensors = gguf.GGUFReader(path).tensors
    model = Model(len(pieces()))
    model.load_state_dict({t.name: torch.from_numpy(t.data.astype(np.float32)) for t in tensors})
    return model.eval()
