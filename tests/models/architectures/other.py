"""Models of transformers for images and sounds."""

from functools import partial

from architectures.architecture import COMPUTED
from architectures.pretrained import image, sound, waves

_HEADS = ("num_attention_heads", "num_hidden_layers")
_STAGES = {"hidden_sizes": [8, 12], "depths": [1, 1]}

IMAGES = (
    image("ViT", "ViT", patch_size=8),
    image("DeiT", "DeiT", patch_size=8),
    image("BEiT", "Beit", patch_size=8, use_relative_position_bias=True),
    image("DINOv2", "Dinov2", patch_size=8),
    image("Swin", "Swin", without=_HEADS, patch_size=4, embed_dim=8, depths=[2], num_heads=[2], window_size=2),
    image("Swin v2", "Swinv2", without=_HEADS, patch_size=4, embed_dim=8, depths=[2], num_heads=[2], window_size=2),
    image("ConvNeXt", "ConvNext", num_stages=2, patch_size=2, **_STAGES),
    image("ConvNeXt v2", "ConvNextV2", num_stages=2, patch_size=2, **_STAGES),
    image("ResNet", "ResNet", embedding_size=4, layer_type="basic", **_STAGES),
    image("MobileNetV1", "MobileNetV1", size=32, depth_multiplier=0.05, min_depth=4),
    image("MobileNetV2", "MobileNetV2", size=32, depth_multiplier=0.1, depth_divisible_by=4, min_depth=4),
    image("MobileViT", "MobileViT", size=32, hidden_sizes=[8, 8, 8], neck_hidden_sizes=[4, 4, 4, 8, 8, 8, 8],
          expand_ratio=1.0, num_hidden_layers=1),
    image("PoolFormer", "PoolFormer", hidden_sizes=[8, 8], depths=[1, 1], num_encoder_blocks=2, patch_sizes=[3, 3],
          strides=[2, 2], padding=[1, 1]),
    image("SegFormer", "Segformer", num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1], hidden_sizes=[8, 8],
          patch_sizes=[3, 3], strides=[2, 2], num_attention_heads=[1, 2], mlp_ratios=[2, 2], decoder_hidden_size=8),
    image("PVT", "Pvt", num_encoder_blocks=2, depths=[1, 1], sequence_reduction_ratios=[2, 1], hidden_sizes=[8, 8],
          patch_sizes=[4, 2], strides=[4, 2], num_attention_heads=[1, 2], mlp_ratios=[2, 2]),
    image("CvT", "Cvt", without=_HEADS, patch_sizes=[3], patch_stride=[2], patch_padding=[1], embed_dim=[8],
          num_heads=[2], depth=[1], mlp_ratio=[1.0], attention_drop_rate=[0.0], drop_rate=[0.0],
          drop_path_rate=[0.0], qkv_bias=[True],
          cls_token=[True], qkv_projection_method=["dw_bn"], kernel_qkv=[3], padding_kv=[1], stride_kv=[2],
          padding_q=[1], stride_q=[1]),
    image("FocalNet", "FocalNet", patch_size=4, embed_dim=8, depths=[1, 1], hidden_sizes=[8, 16],
          focal_levels=[1, 1], focal_windows=[3, 3]),
)  # fmt: skip

_WAVE = {"conv_dim": [4, 4], "conv_stride": [4, 2], "conv_kernel": [8, 3], "num_feat_extract_layers": 2,
         "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "classifier_proj_size": 6}  # fmt: skip

SOUNDS = (
    sound("Wav2Vec2", "Wav2Vec2", "ForSequenceClassification", "input_values", partial(waves, 80),
          feat_extract_norm="layer", refused=COMPUTED, **_WAVE),
    sound("HuBERT", "Hubert", "ForSequenceClassification", "input_values", partial(waves, 80),
          feat_extract_norm="layer", refused=COMPUTED, **_WAVE),
    sound("Audio Spectrogram Transformer", "AST", "ForAudioClassification", "input_values", partial(waves, 16, 8),
          patch_size=4, frequency_stride=4, time_stride=4, max_length=16, num_mel_bins=8),
    sound("Whisper's encoder", "Whisper", "ForAudioClassification", "input_features", partial(waves, 8, 16),
          d_model=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
          encoder_ffn_dim=12, decoder_ffn_dim=12, num_mel_bins=8, max_source_positions=8, classifier_proj_size=6),
)  # fmt: skip
