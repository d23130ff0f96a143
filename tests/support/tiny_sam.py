"""A network of Segment Anything's form, tiny and drawn, as the library saves one."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    SamConfig,
    SamMaskDecoderConfig,
    SamModel,
    SamPromptEncoderConfig,
    SamVisionConfig,
)


def write_sam(folder: Path) -> Path:
    """Write it into a folder, which is what `load_sam` takes."""
    vision = SamVisionConfig(
        hidden_size=16, output_channels=16, num_hidden_layers=2, num_attention_heads=2,
        image_size=64, patch_size=16, mlp_dim=32, window_size=2, global_attn_indexes=[1],
        num_pos_feats=8,
    )  # fmt: skip
    prompts = SamPromptEncoderConfig(
        hidden_size=16, image_size=64, patch_size=16, mask_input_channels=4
    )
    decoder = SamMaskDecoderConfig(
        hidden_size=16, mlp_dim=32, num_hidden_layers=2, num_attention_heads=2,
        iou_head_depth=2, iou_head_hidden_dim=16,
    )  # fmt: skip
    torch.manual_seed(0)
    network = SamModel(
        SamConfig(
            vision_config=vision.to_dict(),
            prompt_encoder_config=prompts.to_dict(),
            mask_decoder_config=decoder.to_dict(),
        )
    )
    with torch.no_grad():  # fresh weights give one level everywhere
        for p in network.parameters():
            p.normal_(0, 0.5)
    network.save_pretrained(folder)
    return folder
