"""Decoders, mixtures of experts, and state-space and recurrent language models."""

from __future__ import annotations

from functools import partial

from architectures.case import DECODER, SMALL, Architecture, pretrained, text

_decoder = partial(pretrained, "decoder")
_moe = partial(pretrained, "mixture of experts")
_state = partial(pretrained, "state space")

DECODERS: dict[str, Architecture] = {
    "gpt2": _decoder("GPT2LMHeadModel", text(use_cache=False), SMALL),
    "gpt-neo": _decoder(
        "GPTNeoForCausalLM",
        text(use_cache=False),
        {
            "hidden_size": 64,
            "num_layers": 2,
            "num_heads": 8,
            "intermediate_size": 128,
            "vocab_size": 99,
            "max_position_embeddings": 64,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 8,
        },
    ),
    "gpt-neox": _decoder("GPTNeoXForCausalLM", text(), SMALL, use_cache=False),
    "gptj": _decoder(
        "GPTJForCausalLM",
        text(),
        {
            "n_embd": 64,
            "n_layer": 2,
            "n_head": 8,
            "rotary_dim": 4,
            "vocab_size": 99,
            "n_positions": 64,
            "use_cache": False,
        },
    ),
    "gpt-bigcode": _decoder("GPTBigCodeForCausalLM", text(), SMALL, use_cache=False),
    "opt": _decoder(
        "OPTForCausalLM", text(), SMALL, ffn_dim=128, word_embed_proj_dim=64, use_cache=False
    ),
    "bloom": _decoder("BloomForCausalLM", text(), SMALL, n_head=8, n_layer=2, use_cache=False),
    "codegen": _decoder(
        "CodeGenForCausalLM",
        text(),
        {
            "n_embd": 64,
            "n_layer": 2,
            "n_head": 8,
            "rotary_dim": 4,
            "vocab_size": 99,
            "n_positions": 64,
            "use_cache": False,
        },
    ),
    "mpt": _decoder(
        "MptForCausalLM",
        text(),
        {"d_model": 64, "n_heads": 8, "n_layers": 2, "vocab_size": 99, "max_seq_len": 64, "use_cache": False},
    ),
    "falcon": _decoder("FalconForCausalLM", text(), SMALL, use_cache=False),
    "llama": _decoder("LlamaForCausalLM", text(), DECODER),
    "mistral": _decoder("MistralForCausalLM", text(), DECODER, sliding_window=8),
    "qwen2": _decoder("Qwen2ForCausalLM", text(), DECODER),
    "qwen3": _decoder("Qwen3ForCausalLM", text(), DECODER, head_dim=8),
    "gemma2": _decoder("Gemma2ForCausalLM", text(), DECODER, head_dim=8, query_pre_attn_scalar=8),
    "phi": _decoder("PhiForCausalLM", text(), DECODER),
    "phi3": _decoder("Phi3ForCausalLM", text(), DECODER),
    "cohere": _decoder("CohereForCausalLM", text(), DECODER),
    "stablelm": _decoder("StableLmForCausalLM", text(), DECODER),
    "olmo2": _decoder("Olmo2ForCausalLM", text(), DECODER),
    "starcoder2": _decoder("Starcoder2ForCausalLM", text(), DECODER),
    "nemotron": _decoder("NemotronForCausalLM", text(), DECODER),
    "xglm": _decoder(
        "XGLMForCausalLM",
        text(),
        {
            "d_model": 64,
            "ffn_dim": 128,
            "num_layers": 2,
            "attention_heads": 8,
            "vocab_size": 99,
            "use_cache": False,
        },
    ),
    "biogpt": _decoder("BioGptForCausalLM", text(), SMALL, use_cache=False),
    "deepseek-v3": _moe(
        "DeepseekV3ForCausalLM",
        text(),
        DECODER,
        num_key_value_heads=8,
        moe_intermediate_size=32,
        n_routed_experts=8,
        n_group=2,
        topk_group=1,
        num_experts_per_tok=2,
        first_k_dense_replace=1,
        q_lora_rank=32,
        kv_lora_rank=16,
        qk_nope_head_dim=8,
        qk_rope_head_dim=8,
        v_head_dim=8,
    ),
    "mixtral": _moe(
        "MixtralForCausalLM", text(), DECODER, num_local_experts=4, num_experts_per_tok=2, sliding_window=None
    ),
    "qwen2-moe": _moe(
        "Qwen2MoeForCausalLM",
        text(),
        DECODER,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=64,
        shared_expert_intermediate_size=64,
    ),
    "olmoe": _moe("OlmoeForCausalLM", text(), DECODER, num_experts=4, num_experts_per_tok=2),
    "granite-moe": _moe(
        "GraniteMoeForCausalLM", text(), DECODER, num_local_experts=4, num_experts_per_tok=2
    ),
    "mamba": _state(
        "MambaForCausalLM",
        text(),
        {"hidden_size": 64, "num_hidden_layers": 2, "state_size": 8, "vocab_size": 99, "use_cache": False},
    ),
    "mamba2": _state(
        "Mamba2ForCausalLM",
        text(),
        {
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "state_size": 8,
            "num_heads": 8,
            "head_dim": 16,
            "n_groups": 2,
            "chunk_size": 4,
            "vocab_size": 99,
            "use_cache": False,
        },
    ),
    "falcon-mamba": _state(
        "FalconMambaForCausalLM",
        text(),
        {"hidden_size": 64, "num_hidden_layers": 2, "state_size": 8, "vocab_size": 99, "use_cache": False},
    ),
    "rwkv": _state(
        "RwkvForCausalLM",
        text(),
        {
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "attention_hidden_size": 64,
            "intermediate_size": 128,
            "vocab_size": 99,
            "use_cache": False,
        },
    ),
    "recurrent-gemma": _state(
        "RecurrentGemmaForCausalLM",
        text(),
        DECODER,
        lru_width=64,
        head_dim=8,
        attention_window_size=8,
        num_hidden_layers=3,
    ),
    "jamba": _state(
        "JambaForCausalLM",
        text(),
        DECODER,
        num_experts=2,
        num_experts_per_tok=1,
        mamba_d_state=8,
        mamba_dt_rank=8,
        use_mamba_kernels=False,
        num_hidden_layers=4,
        attn_layer_period=4,
        attn_layer_offset=2,
    ),
}
