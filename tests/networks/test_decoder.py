from __future__ import annotations

import pytest
import torch

from ssrseg.networks.decoder import Decoder, decoder_width, quick_gelu


def tokens(blocks: int, width: int, grid: tuple[int, int], batch: int = 2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    patches = grid[0] * grid[1]
    return [torch.randn(batch, patches + 1, width, generator=generator) for _ in range(blocks)]


def count(decoder: Decoder) -> int:
    return sum(p.numel() for p in decoder.parameters() if p.requires_grad)


def test_parameters_of_the_published_decoder() -> None:
    assert count(Decoder(11, 768, 20)) == 5_985_045


def test_parameters_follow_one_rule_at_every_size() -> None:
    for blocks, clip_width, classes, layers in [(11, 768, 80, 3), (3, 64, 5, 1), (11, 384, 20, 2)]:
        w = decoder_width(clip_width)
        reduce = blocks * (clip_width * w + w + w * w + w)
        fuse = blocks * w * w + w
        layer = 4 * w * w + 4 * w + 2 * 4 * w * w + 4 * w + w + 4 * w
        expected = reduce + fuse + layers * layer + (w + 1) * (classes + 1)
        assert count(Decoder(blocks, clip_width, classes, layers=layers)) == expected


@pytest.mark.parametrize(
    ("clip_width", "width"), [(768, 256), (1024, 320), (384, 128), (128, 64), (64, 64)]
)
def test_width(clip_width: int, width: int) -> None:
    assert decoder_width(clip_width) == width


def test_logits_on_the_patch_grid_row_by_row() -> None:
    torch.manual_seed(0)
    decoder = Decoder(2, 64, 3, layers=1).eval()
    seen = tokens(2, 64, (2, 3))
    with torch.no_grad():
        logits = decoder(seen, (2, 3))
        # transformer layers have no position: swapping two patches swaps their logits
        swapped = [block[:, [0, 6, 2, 3, 4, 5, 1]] for block in seen]
        moved = decoder(swapped, (2, 3))
    assert logits.shape == (2, 4, 2, 3)
    assert torch.allclose(moved[:, :, 0, 0], logits[:, :, 1, 2], atol=1e-5)
    assert torch.allclose(moved[:, :, 0, 1], logits[:, :, 0, 1], atol=1e-5)
    assert (moved[:, :, 0, 0] - logits[:, :, 0, 0]).abs().max() > 1e-3


def test_the_cls_token_is_left_out() -> None:
    decoder = Decoder(2, 64, 3, layers=1).eval()
    seen = tokens(2, 64, (2, 2))
    other = [torch.cat([block[:, :1] + 5, block[:, 1:]], 1) for block in seen]
    with torch.no_grad():
        assert torch.equal(decoder(seen, (2, 2)), decoder(other, (2, 2)))


def test_every_block_and_every_parameter_counts() -> None:
    decoder = Decoder(3, 64, 3, layers=2)
    decoder(tokens(3, 64, (2, 2)), (2, 2)).square().sum().backward()
    # The bias of the keys shifts all logits of a softmax alike: its gradient is 0 by nature.
    for name, parameter in decoder.named_parameters():
        assert parameter.grad.abs().max() > 0, name


def test_dropout_takes_whole_channels_of_an_image() -> None:
    torch.manual_seed(0)
    decoder = Decoder(1, 64, 3, dropout=0.5)
    seen = tokens(1, 64, (4, 4))
    whole, dropped = decoder.fusion(seen), decoder.fusion(seen, decoder.kept_channels([5, 6]))
    gone = dropped == 0
    assert torch.equal(gone, gone[:, :1].expand_as(gone))  # a channel is gone at every patch
    assert 0.2 < gone.float().mean() < 0.8
    assert not torch.equal(gone[0], gone[1])  # and for one image only
    assert torch.allclose(dropped[~gone], 2 * whole[~gone])


def test_what_an_image_loses_is_decided_by_its_seed_alone() -> None:
    decoder = Decoder(1, 64, 3, dropout=0.25)
    together = decoder.kept_channels(range(200))
    torch.manual_seed(7)  # whatever was drawn before
    alone = torch.cat([decoder.kept_channels([seed]) for seed in range(200)])
    assert torch.equal(alone, together)
    assert (together == 0).float().mean() == pytest.approx(0.25, abs=0.02)
    assert together[together > 0].unique().tolist() == pytest.approx([4 / 3])
    for dropout, factor in ((0.0, 1.0), (1.0, 0.0)):
        assert (Decoder(1, 64, 3, dropout=dropout).kept_channels([0, 1]) == factor).all()


def test_another_number_of_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        Decoder(3, 64, 3)(tokens(2, 64, (2, 2)), (2, 2))


def test_quick_gelu_by_hand() -> None:
    x = torch.tensor([-2.0, 0.0, 1.0])
    assert torch.allclose(quick_gelu(x), torch.tensor([-0.064331, 0.0, 0.845795]), atol=1e-5)


def test_logits_are_made_of_the_fused_features_alone() -> None:
    torch.manual_seed(0)
    decoder = Decoder(2, 64, 3, layers=1).eval()
    seen = tokens(2, 64, (2, 3))
    with torch.no_grad():
        fused = decoder.fusion(seen)
        reduced = [mlp(block[:, 1:]) for mlp, block in zip(decoder.reduce, seen, strict=True)]
        assert fused.shape == (2, 6, 64)
        assert torch.allclose(fused, decoder.fuse(torch.cat(reduced, -1)), atol=1e-6)
        assert torch.equal(decoder.segment(fused, (2, 3)), decoder(seen, (2, 3)))
