"""Encoders and encoder-decoders for text."""

from __future__ import annotations

from functools import partial

from architectures.case import SMALL, Architecture, numbers, pretrained, text, two_texts, unmasked

_encoder = partial(pretrained, "text encoder")
_seq2seq = partial(pretrained, "encoder-decoder")
_BART = {
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 8,
    "decoder_attention_heads": 8,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "vocab_size": 99,
    "max_position_embeddings": 64,
    "use_cache": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
_T5 = {
    "d_model": 64,
    "d_kv": 8,
    "d_ff": 128,
    "num_layers": 2,
    "num_heads": 8,
    "vocab_size": 99,
    "use_cache": False,
}

TEXT: dict[str, Architecture] = {
    "bert": _encoder("BertForSequenceClassification", text(), SMALL),
    "roberta": _encoder("RobertaForMaskedLM", text(), SMALL),
    "distilbert": _encoder(
        "DistilBertForSequenceClassification",
        text(),
        {"dim": 64, "n_layers": 2, "n_heads": 8, "hidden_dim": 128, "vocab_size": 99},
    ),
    "albert": _encoder("AlbertForMaskedLM", text(), SMALL, embedding_size=32),
    "electra": _encoder("ElectraForTokenClassification", text(), SMALL, embedding_size=32),
    "deberta-v2": _encoder(
        "DebertaV2ForSequenceClassification",
        text(),
        SMALL,
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        position_buckets=8,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
    ),
    "mpnet": _encoder("MPNetForMaskedLM", text(), SMALL),
    "mobilebert": _encoder(
        "MobileBertForMaskedLM",
        text(),
        SMALL,
        embedding_size=32,
        true_hidden_size=32,
        intra_bottleneck_size=32,
    ),
    "squeezebert": _encoder("SqueezeBertForSequenceClassification", text(), SMALL, embedding_size=64),
    "convbert": _encoder("ConvBertForSequenceClassification", text(), SMALL, embedding_size=64),
    "fnet": _encoder("FNetForSequenceClassification", unmasked, SMALL),
    "funnel": _encoder(
        "FunnelForSequenceClassification",
        text(),
        {"d_model": 64, "n_head": 8, "d_head": 8, "d_inner": 128, "vocab_size": 99, "block_sizes": [1, 1]},
    ),
    "modernbert": _encoder("ModernBertForMaskedLM", text(), SMALL, local_attention=8),
    "nystromformer": _encoder(
        "NystromformerForMaskedLM", unmasked, SMALL, num_landmarks=12, segment_means_seq_len=12
    ),
    "roformer": _encoder("RoFormerForMaskedLM", text(), SMALL),
    "xlnet": _encoder(
        "XLNetForSequenceClassification",
        text(),
        {"d_model": 64, "n_layer": 2, "n_head": 8, "d_inner": 128, "vocab_size": 99},
    ),
    "longformer": _encoder("LongformerForMaskedLM", text(), SMALL, attention_window=[4, 4]),
    "big-bird": _encoder("BigBirdForMaskedLM", text(), SMALL, attention_type="original_full"),
    "esm": _encoder("EsmForMaskedLM", text(), SMALL, position_embedding_type="rotary", mask_token_id=98),
    "canine": _encoder(
        "CanineForSequenceClassification", text(), SMALL, downsampling_rate=4, local_transformer_stride=4
    ),
    "ibert": _encoder("IBertForMaskedLM", text(), SMALL),
    "bart": _seq2seq("BartForConditionalGeneration", two_texts, _BART),
    "pegasus": _seq2seq("PegasusForConditionalGeneration", two_texts, _BART),
    "m2m100": _seq2seq("M2M100ForConditionalGeneration", two_texts, _BART),
    "marian": _seq2seq("MarianMTModel", two_texts, _BART),
    "t5": _seq2seq("T5ForConditionalGeneration", two_texts, _T5),
    "t5-gated": _seq2seq("T5ForConditionalGeneration", two_texts, _T5, feed_forward_proj="gated-gelu"),
    "longt5": _seq2seq(
        "LongT5ForConditionalGeneration",
        lambda: {**text()(), "decoder_input_ids": numbers(7)},
        _T5,
        local_radius=4,
    ),
    "prophetnet": _seq2seq(
        "ProphetNetForConditionalGeneration",
        two_texts,
        {
            "hidden_size": 64,
            "vocab_size": 99,
            "num_encoder_layers": 2,
            "num_decoder_layers": 2,
            "num_encoder_attention_heads": 8,
            "num_decoder_attention_heads": 8,
            "encoder_ffn_dim": 128,
            "decoder_ffn_dim": 128,
            "use_cache": False,
        },
    ),
}
