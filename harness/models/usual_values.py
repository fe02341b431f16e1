"""Values to try for an argument or a setting that nobody gave, by its name."""

from __future__ import annotations

import re
from typing import Any

SIZES: dict[str, Any] = {
    name: value
    for names, value in (
        ("vocab_size n_vocab vocab num_tokens n_tokens ntoken num_embeddings src_vocab_size tgt_vocab_size", 256),
        ("trg_vocab_size enc_voc_size dec_voc_size voc_size embed_num", 256),
        ("max_seq_len max_len max_length seq_len seq_length block_size context_length n_ctx max_position_embeddings", 64),
        (
            "d_model dim embed_dim embedding_dim emb_dim emb_size embed_size n_embd ninp hidden_size hidden_dim hidden nhid width",
            64,
        ),
        ("num_heads n_heads nhead n_head heads nheads num_attention_heads heads_num head_num", 4),
        ("num_layers n_layers nlayers n_layer depth num_blocks n_blocks num_hidden_layers layers", 2),
        ("num_encoder_layers num_decoder_layers", 2),
        ("embedding_length d_token d_main d_embed d_word_vec d_hid d_inner dim_in dim_out", 64),
        ("d_k d_v d_head dim_head head_dim", 16),
        ("rank order", 2),
        ("stride dilation groups ngpu num_gpus", 1),
        ("dropouts", [0.1, 0.1]),
        ("d_ff dim_feedforward ff_dim mlp_dim intermediate_size ffn_dim ffn_hidden", 128),
        (
            "num_classes n_classes class_num d_out nclasses num_labels n_labels classes output_dim out_dim output_size out_features n_outputs",
            4,
        ),
        ("in_channels in_chans in_chs c_in ch_in num_channels channels n_channels", 3),
        ("image_size img_size", 32),
        ("patch_size", 8),
        ("kernel_size", 3),
        ("num_features n_features in_features input_dim input_size in_dim n_inputs d_in num_filters kernel_num d_input", 16),
        ("dropout drop_rate dropout_rate dropout_p drop_prob drop p", 0.1),
        ("pad_token_id pad_idx pad_id padding_idx src_pad_idx trg_pad_idx tgt_pad_idx", 0),
        ("trg_sos_idx tgt_sos_idx sos_idx bos_token_id", 1),
        ("device", "cpu"),
        ("learning_rate lr", 1e-3),
        ("weight_decay", 0.01),
    )
    for name in names.split()
}
"""What a required argument or setting of a usual name is tried with: small, and sizes that go together."""

_LIKE: tuple[tuple[str, Any], ...] = (
    (r"(?:.*_)?voc(?:ab)?(?:ulary)?(?:_?(?:size|len|num))?", 256),
    (r"n_\w+_(?:ctx|context)", 16),
    (r"n_\w+_state", 32),
    (r"n_\w+_heads?", 4),
    (r"n_\w+_layers?", 2),
    (r".*device", "cpu"),
    (r"attention_resolutions", [2]),
    (r"(?:has|is|use|with|do)_.+|individual|bidirectional|normali[sz]e", False),
    (r".*(?:field_dims|cardinalities|cat_dims|num_categories)", [10, 6, 4]),
    (r".*(?:mlp_dims|hidden_dims|hidden_units|hidden_sizes|layer_sizes|hidden_layers|dnn_units)", [16, 16]),
    (r"n_?feats?|state_?dim|obs_?dim|observation_dim|.*input.*dim|dim_input|num_inputs|enc_in|dec_in|c_out", 8),
    (
        r"(?:n|num|nb)?_?class(?:es)?(?:_(?:count|num|number))?|target_class(?:es)?|n_?labels|dim_output|d_output|num_outputs|ch_out|out_ch(?:an)?s",
        4,
    ),
    (r"max_?action|act(?:ion)?_(?:bound|lim(?:it)?|scale|range)", 1.0),
    (r"(?:.*_)?(?:path|file|dir|ckpt|checkpoint|pretrained)", ""),
    (r".*stride", 1),
    (r"categories", [10, 6, 4]),
    (r"action_?(?:dim|size|space_?size)|act_?dim|(?:n_|num_|nb_)?actions", 4),
    (r"(?:kernel|filter)_sizes", [3, 4, 5]),
    (r"(?:im(?:g|age)?|input)_?(?:h|w|height|width)", 32),
    (r"(?:img|image|input|in)_?shape", [3, 32, 32]),
    (r"(?:obs|observation|state)_?(?:space_)?shape", [8]),
    (r"(?:act(?:ion)?|out(?:put)?)_?(?:space_)?shape", [4]),
    (r"nc|in_?ch(?:annels?)?|input_nc|n_?channels?|(?:img|image|input)_channels?", 3),
    (r"out(?:put)?_?ch(?:annels?)?|output_nc", 4),
    (r".*kernel_?size", 3),
    (r".*width", 64),
    (r".*patch_size", 8),
    (r"nh|nf|ngf|ndf|n_?hid(?:den)?|(?:in|out)?_?planes|.*(?:_channels?|_planes|_filters)", 16),
    (r".*(?:dim|dims|size|units|hidden|features|factor_num|factors)", 16),
    (r"(?:num_|n_)(?:users?|items?|movies|entities|relations|nodes|embeddings?|symbols|chars)|(?:user|item)s?_(?:num|count)", 50),
    (r".*(?:upscale|scale)_?factor|upscale", 2),
    (r"(?:pred|label|seq|input|output|target)_?(?:len|length|window)|window(?:_size)?|horizon|.*_len(?:gth)?", 16),
    (r"moving_avg", 25),
    (r".*_steps", 16),
    (r".*(?:rate|prob|dropout\w*|drop\w*|alpha|ratio|(?<![a-z])eps|epsilon|temperature|std|std_init|momentum)", 0.1),
    (r".*(?:image|input)?_?resolution", 32),
    (r".*_(?:layers|blocks|depth)", 2),
    (r".*_heads", 4),
    (r"(?:n_|num_)(?:points?|queries|slots|tokens|steps|timesteps|mels|bins|freqs|joints|keypoints)", 16),
    (r"(?:n_|num_|nb_).+|.+_(?:num|count)", 4),
)
"""The same for names that only resemble usual ones, the likeliest first."""


A_NUMBER = 8
"""What a required argument of no usual name is tried with, where the code takes it for a number."""

OTHER_NUMBERS = (1, 2, 4, 16)
"""What it is tried with where that does not do."""

_HUMPS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def snake_case(name: str) -> str:
    """``hiddenSize`` as ``hidden_size``, so that a name says the same in both spellings."""
    return _HUMPS.sub("_", name).lower()


def usual_value(name: str) -> Any:
    """What an argument or setting is tried with, by its name; ``None`` for one of no usual name."""
    name = snake_case(name)
    # `hidden_dim1` and `hidden_dim2` are sizes of layers.
    for each in dict.fromkeys((name, name.rstrip("0123456789").rstrip("_"))):
        found = SIZES[each] if each in SIZES else next((value for pattern, value in _LIKE if re.fullmatch(pattern, each)), None)
        if found is not None:
            return found
    return None
