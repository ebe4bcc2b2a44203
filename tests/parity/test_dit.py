"""The diffusion transformer: the same weights in diffusers' network and in ours, values and gradients."""

import pytest
import torch
from torch import nn

from sfumato import nets

WIDTH, DEPTH, HEADS, CLASSES, SIZE = 24, 2, 3, 5, 8
NAMES = {
    "pos_embed.proj": "enter",
    "transformer_blocks.0.norm1.emb.timestep_embedder.linear_1": "embedding.mlp.0",
    "transformer_blocks.0.norm1.emb.timestep_embedder.linear_2": "embedding.mlp.2",
    "transformer_blocks.0.norm1.emb.class_embedder.embedding_table": "embedding.label",
    "proj_out_1": "affine",
    "proj_out_2": "leave",
} | {
    f"transformer_blocks.{i}.{theirs}": f"blocks.{i}.{ours}"
    for i in range(DEPTH)
    for theirs, ours in {
        "norm1.linear": "affine",
        "attn1.to_q": "qkv",
        "attn1.to_k": "qkv",
        "attn1.to_v": "qkv",
        "attn1.to_out.0": "out",
        "ff.net.0.proj": "widen",
        "ff.net.2": "narrow",
    }.items()
}


def mapped(tensors):
    """Their tensors by our names; those of queries, keys and values one under the other."""
    found = {}
    for name, tensor in tensors.items():
        module, _, kind = name.rpartition(".")
        if module in NAMES:
            found.setdefault(f"{NAMES[module]}.{kind}", []).append(tensor)
    return {name: torch.cat(parts) for name, parts in found.items()}


@pytest.fixture(scope="module", params=[(1, 0.0), (2, 0.3)], ids=["patch 1", "patch 2, dropout"])
def pair(request, diffusers):
    """Their network and ours, with the same random weights."""
    patch, dropout = request.param
    torch.manual_seed(0)
    theirs = diffusers.DiTTransformer2DModel(
        num_attention_heads=HEADS, attention_head_dim=WIDTH // HEADS, in_channels=3, out_channels=6, num_layers=DEPTH,
        dropout=dropout, sample_size=SIZE, patch_size=patch, num_embeds_ada_norm=CLASSES, norm_eps=1e-6,
    )  # fmt: skip
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.2)
    embedding = theirs.transformer_blocks[0].norm1.emb  # published weights hold as many copies of it as blocks
    embedding.class_embedder.dropout_prob = 0.0  # labels are withheld outside of our networks
    embedding.time_proj.downscale_freq_shift = 0  # as published; theirs divides by 127 where DiT divides by 128
    for block in theirs.transformer_blocks:
        block.norm1.emb = embedding
    ours = nets.build("dit", 3, width=WIDTH, depth=DEPTH, heads=HEADS, patch=patch, classes=CLASSES, dropout=dropout, outputs=2)
    ours.load_state_dict(mapped(theirs.state_dict()))
    return theirs, ours


def test_values_and_gradients_are_those_of_diffusers(pair):
    """In training mode, with the same dropout masks where there are any."""
    generator = torch.Generator().manual_seed(1)
    x, g = torch.randn(4, 3, SIZE, SIZE, generator=generator), torch.randn(4, 6, SIZE, SIZE, generator=generator)
    steps, labels = torch.tensor([0, 10, 500, 999]), torch.tensor([0, 3, 4, CLASSES])
    found = []
    for net, names in zip(pair, (mapped, dict), strict=True):
        leaf = x.clone().requires_grad_()
        net.train().zero_grad()
        torch.manual_seed(2)
        out = net(leaf, steps, labels)
        out = out.sample if names is mapped else out
        out.backward(g)
        gradients = {name: p.grad for name, p in net.named_parameters()}
        found.append({"output": out, "input": leaf.grad} | names(gradients))
    theirs, ours = found
    assert theirs.keys() == ours.keys()
    for name, expected in theirs.items():
        scale = expected.abs().max().item()
        assert scale > 1e-3, name
        torch.testing.assert_close(ours[name], expected, rtol=1e-5, atol=1e-5 * scale, msg=lambda m, name=name: f"{name}: {m}")
