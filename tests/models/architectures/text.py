"""Language models of transformers: encoders, decoders, both, state space models, mixtures of experts."""

from architectures.pretrained import both, decoder, encoder

_GROUPED = {"num_key_value_heads": 1, "head_dim": 4}
_MIXTURE = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 6,
            "experts_implementation": "eager"}  # fmt: skip

ENCODERS = (
    encoder("BERT", "Bert", pairs=True),
    encoder("RoBERTa", "Roberta"),
    encoder("DistilBERT", "DistilBert", dim=8, hidden_dim=12, n_layers=2, n_heads=2),
    encoder("ALBERT (layers share weights)", "Albert", embedding_size=6),
    encoder("ELECTRA", "Electra", embedding_size=6),
    encoder("DeBERTa", "Deberta", relative_attention=True, pos_att_type=["c2p", "p2c"], max_relative_positions=8),
    encoder("DeBERTa-v2 / v3", "DebertaV2", relative_attention=True, pos_att_type=["c2p", "p2c"], position_buckets=4,
            max_relative_positions=8, share_att_key=True, norm_rel_ebd="layer_norm"),
    encoder("MPNet (MiniLM's successor)", "MPNet"),
    encoder("ModernBERT", "ModernBert", global_attn_every_n_layers=2, local_attention=4),
    encoder("ConvBERT", "ConvBert", embedding_size=8, head_ratio=1, conv_kernel_size=3),
    encoder("MobileBERT", "MobileBert", embedding_size=6, intra_bottleneck_size=8, true_hidden_size=8),
    encoder("SqueezeBERT", "SqueezeBert", embedding_size=8, q_groups=2, k_groups=2, v_groups=2, intermediate_groups=2,
            output_groups=2, post_attention_groups=1),
    encoder("FNet (Fourier)", "FNet"),
    encoder("RoFormer", "RoFormer", embedding_size=8),
    encoder("XLNet", "XLNet", without=("max_position_embeddings",), d_model=8, n_layer=2, n_head=2, d_inner=12),
    encoder("ESM (proteins)", "Esm", position_embedding_type="rotary", mask_token_id=3, token_dropout=False),
    encoder("T5's encoder, a label for each token", "T5", tagging=True, d_model=8, d_kv=4, d_ff=12, num_layers=2,
            num_heads=2, decoder_start_token_id=0),
    encoder("GPT-2, its classification", "GPT2", n_embd=8, n_layer=2, n_head=2, n_positions=24),
    encoder("Llama, its classification", "Llama", **_GROUPED),
)  # fmt: skip

DECODERS = (
    decoder("GPT-2 (tied, Conv1D)", "GPT2", "LMHeadModel", n_embd=8, n_layer=2, n_head=2, n_positions=24),
    decoder("GPT-Neo", "GPTNeo", num_layers=2, num_heads=2, attention_types=[[["global", "local"], 1]], window_size=4),
    decoder("GPT-NeoX / Pythia", "GPTNeoX"),
    decoder("GPT-J", "GPTJ", n_embd=8, n_layer=2, n_head=2, n_positions=24, rotary_dim=4),
    decoder("OPT", "OPT", ffn_dim=12, word_embed_proj_dim=8),
    decoder("BLOOM", "Bloom", n_layer=2, n_head=2),
    decoder("Llama", "Llama", **_GROUPED),
    decoder("Mistral", "Mistral", sliding_window=4, **_GROUPED),
    decoder("Qwen2", "Qwen2", **_GROUPED),
    decoder("Qwen3", "Qwen3", **_GROUPED),
    decoder("Gemma", "Gemma", **_GROUPED),
    decoder("Gemma 2", "Gemma2", sliding_window=16, query_pre_attn_scalar=4, **_GROUPED),
    decoder("Gemma 3", "Gemma3Text", sliding_window=4, query_pre_attn_scalar=4, **_GROUPED),
    decoder("Phi", "Phi"),
    decoder("Phi-3", "Phi3", **_GROUPED),
    decoder("Falcon", "Falcon"),
    decoder("MPT", "Mpt", d_model=8, n_heads=2, n_layers=2, expansion_ratio=2, max_seq_len=24),
    decoder("StableLM", "StableLm", **_GROUPED),
    decoder("Cohere", "Cohere", **_GROUPED),
    decoder("OLMo 2", "Olmo2", **_GROUPED),
    decoder("Granite", "Granite", **_GROUPED),
    decoder("StarCoder 2", "Starcoder2", **_GROUPED),
    decoder("SmolLM 3", "SmolLM3", **_GROUPED),
)

BOTH = (
    both("T5", "T5", d_model=8, d_kv=4, d_ff=12, num_layers=2, num_heads=2, decoder_start_token_id=0),
    both("BART", "Bart", d_model=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
         decoder_attention_heads=2, encoder_ffn_dim=12, decoder_ffn_dim=12),
    both("Pegasus", "Pegasus", d_model=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
         decoder_attention_heads=2, encoder_ffn_dim=12, decoder_ffn_dim=12),
    both("Marian", "Marian", "MTModel", d_model=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
         decoder_attention_heads=2, encoder_ffn_dim=12, decoder_ffn_dim=12),
)  # fmt: skip

STATE_SPACE = (
    decoder("Mamba", "Mamba", family="state space", state_size=4, num_hidden_layers=1),
    decoder("Mamba 2", "Mamba2", family="state space", state_size=4, num_heads=4, head_dim=4, n_groups=1, chunk_size=4,
            num_hidden_layers=1),
    decoder("RWKV", "Rwkv", family="state space", context_length=24, attention_hidden_size=8),
    decoder("RecurrentGemma", "RecurrentGemma", family="state space", lru_width=8, attention_window_size=4,
            num_hidden_layers=3, num_key_value_heads=1),
    decoder("Jamba (with experts)", "Jamba", family="state space", mamba_d_state=4, mamba_dt_rank=2, num_experts=2,
            num_experts_per_tok=1, attn_layer_period=2, attn_layer_offset=1, use_mamba_kernels=False,
            num_key_value_heads=1, experts_implementation="eager"),
)  # fmt: skip

EXPERTS = (
    decoder("Mixtral", "Mixtral", family="mixtures of experts", **_GROUPED, **_MIXTURE),
    decoder("Qwen2-MoE", "Qwen2Moe", family="mixtures of experts", shared_expert_intermediate_size=6,
            num_key_value_heads=1, **_MIXTURE),
    decoder("Qwen3-MoE", "Qwen3Moe", family="mixtures of experts", **_GROUPED, **_MIXTURE),
    decoder("OLMoE", "Olmoe", family="mixtures of experts", num_key_value_heads=1, **_MIXTURE),
    decoder("Phi-MoE", "Phimoe", family="mixtures of experts", router_jitter_noise=0.0, input_jitter_noise=0.0,
            num_key_value_heads=1, **_MIXTURE),
    decoder("Granite-MoE", "GraniteMoe", family="mixtures of experts", num_key_value_heads=1, **_MIXTURE),
    decoder("DeepSeek-V3", "DeepseekV3", family="mixtures of experts", n_routed_experts=4, n_group=2, topk_group=1,
            first_k_dense_replace=1, q_lora_rank=4, kv_lora_rank=4, qk_rope_head_dim=4, qk_nope_head_dim=4,
            v_head_dim=4, n_shared_experts=1, num_experts_per_tok=2, moe_intermediate_size=6,
            experts_implementation="eager"),
    decoder("gpt-oss", "GptOss", family="mixtures of experts", sliding_window=4, **_GROUPED, **_MIXTURE),
    both("Switch Transformer", "SwitchTransformers", d_model=8, d_kv=4, d_ff=12, num_layers=2, num_heads=2,
         num_decoder_layers=2, num_experts=2, expert_capacity=64, router_jitter_noise=0.0, decoder_start_token_id=0,
         experts_implementation="eager"),
)  # fmt: skip
