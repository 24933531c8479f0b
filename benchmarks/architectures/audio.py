"""Audio and time series."""

from __future__ import annotations

from functools import partial

import torch

from architectures.case import SMALL, Architecture, numbers, pretrained

_audio = partial(pretrained, "audio")
_series = partial(pretrained, "time series")
_WAVE = {
    **SMALL,
    "conv_dim": [32, 32, 32],
    "conv_kernel": [8, 3, 3],
    "conv_stride": [4, 2, 2],
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "mask_time_prob": 0.0,
    "vocab_size": 30,
}


def _wave() -> dict[str, torch.Tensor]:
    return {"input_values": torch.randn(2, 800)}


AUDIO: dict[str, Architecture] = {
    "wav2vec2": _audio("Wav2Vec2ForCTC", _wave, _WAVE),
    "wav2vec2-stable": _audio(
        "Wav2Vec2ForCTC", _wave, _WAVE, do_stable_layer_norm=True, feat_extract_norm="layer"
    ),
    "hubert": _audio("HubertForCTC", _wave, _WAVE),
    "wavlm": _audio("WavLMForCTC", _wave, _WAVE, num_buckets=16, max_bucket_distance=32),
    "sew": _audio("SEWForCTC", _wave, _WAVE, squeeze_factor=2),
    "wav2vec2-conformer": _audio(
        "Wav2Vec2ConformerForCTC",
        _wave,
        _WAVE,
        position_embeddings_type="rotary",
        conv_depthwise_kernel_size=7,
    ),
    "data2vec-audio": _audio("Data2VecAudioForCTC", _wave, _WAVE, conv_pos_kernel_size=5),
    "whisper": _audio(
        "WhisperForConditionalGeneration",
        lambda: {"input_features": torch.randn(2, 16, 40), "decoder_input_ids": numbers(7)},
        {
            "d_model": 64,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 8,
            "decoder_attention_heads": 8,
            "encoder_ffn_dim": 128,
            "decoder_ffn_dim": 128,
            "vocab_size": 99,
            "num_mel_bins": 16,
            "max_source_positions": 20,
            "max_target_positions": 16,
            "use_cache": False,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 1,
            "suppress_tokens": None,
            "begin_suppress_tokens": None,
        },
    ),
    "speech-to-text": _audio(
        "Speech2TextForConditionalGeneration",
        lambda: {"input_features": torch.randn(2, 40, 16), "decoder_input_ids": numbers(7)},
        {
            "d_model": 64,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 8,
            "decoder_attention_heads": 8,
            "encoder_ffn_dim": 128,
            "decoder_ffn_dim": 128,
            "vocab_size": 99,
            "input_feat_per_channel": 16,
            "conv_channels": 32,
            "max_source_positions": 64,
            "max_target_positions": 16,
            "use_cache": False,
        },
    ),
    "audio-spectrogram": _audio(
        "ASTForAudioClassification",
        lambda: {"input_values": torch.randn(2, 32, 16)},
        {
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 8,
            "intermediate_size": 128,
            "patch_size": 8,
            "frequency_stride": 8,
            "time_stride": 8,
            "max_length": 32,
            "num_mel_bins": 16,
        },
    ),
    "encodec": _audio(
        "EncodecModel",
        lambda: {"input_values": torch.randn(2, 1, 640)},
        {
            "hidden_size": 32,
            "num_filters": 8,
            "upsampling_ratios": [4, 2],
            "codebook_size": 16,
            "num_lstm_layers": 1,
        },
    ),
    "univnet": _audio(
        "UnivNetModel",
        lambda: {"input_features": torch.randn(2, 8, 16), "noise_sequence": torch.randn(2, 8, 16)},
        {
            "model_in_channels": 16,
            "model_hidden_channels": 16,
            "num_mel_bins": 16,
            "resblock_stride_sizes": [4, 4],
            "resblock_kernel_sizes": [3, 3],
            "resblock_dilation_sizes": [[1, 3], [1, 3]],
            "kernel_predictor_hidden_channels": 16,
        },
    ),
    "patchtst": _series(
        "PatchTSTForPrediction",
        lambda: {"past_values": torch.randn(2, 32, 3)},
        {
            "num_input_channels": 3,
            "context_length": 32,
            "patch_length": 8,
            "patch_stride": 8,
            "prediction_length": 4,
            "d_model": 64,
            "num_attention_heads": 8,
            "num_hidden_layers": 2,
            "ffn_dim": 128,
            "loss": "mse",
        },
    ),
    "patchtsmixer": _series(
        "PatchTSMixerForPrediction",
        lambda: {"past_values": torch.randn(2, 32, 3)},
        {
            "num_input_channels": 3,
            "context_length": 32,
            "patch_length": 8,
            "patch_stride": 8,
            "prediction_length": 4,
            "d_model": 32,
            "num_layers": 2,
        },
    ),
    "decision-transformer": _series(
        "DecisionTransformerModel",
        lambda: {
            "states": torch.randn(2, 4, 6),
            "actions": torch.randn(2, 4, 3),
            "rewards": torch.randn(2, 4, 1),
            "returns_to_go": torch.randn(2, 4, 1),
            "timesteps": torch.arange(4).repeat(2, 1),
            "attention_mask": torch.ones(2, 4),
        },
        {"state_dim": 6, "act_dim": 3, "hidden_size": 64, "n_layer": 2, "n_head": 8, "max_ep_len": 16},
    ),
}
