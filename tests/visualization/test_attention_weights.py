import numpy as np
import pytest
import torch
from detectron2.modeling import ResNet, build_model
from torch import nn

from d2detr.errors import UserError
from d2detr.visualization import attention
from tests.modeling.inputs import make_input


@pytest.fixture
def image():
    return make_input(60, 90)["image"]


@pytest.fixture
def padding(monkeypatch):
    """Pads images to whole multiples of 64, as backbones other than ResNet do."""
    monkeypatch.setattr(ResNet, "size_divisibility", 64)


def build(cfg, decoder="detr"):
    torch.manual_seed(0)
    cfg.MODEL.DETR.DECODER = decoder
    return build_model(cfg).eval()


def inputs_of(module, model, image):
    """The arguments of a module in inference."""
    calls = []
    handle = module.register_forward_pre_hook(lambda _, args: calls.append(args))
    model([{"image": image}])
    handle.remove()
    return calls[0]


@pytest.mark.parametrize("decoder", ["detr", "conditional", "dab"])
def test_weights_and_predictions_of_every_decoder(tiny_cfg, image, decoder):
    model = build(tiny_cfg, decoder)
    found = attention(model, image)
    with torch.no_grad():
        detected = model([{"image": image}])[0]["instances"]

    for weights in (found.encoder, found.decoder):
        np.testing.assert_allclose(weights.sum((-2, -1)), 1, atol=1e-5)
    layers, _, queries, *grid = found.decoder.shape
    assert found.encoder.shape[2:] == (*grid, *grid)
    assert found.boxes.shape == (layers, queries, 4)
    assert found.scores.shape == found.classes.shape == (layers, queries)
    best = detected.scores.argmax()
    assert found.scores[-1].max() == pytest.approx(detected.scores[best].item(), abs=1e-5)
    box = found.boxes[-1, found.scores[-1].argmax()]
    np.testing.assert_allclose(box, detected.pred_boxes.tensor[best], atol=1e-3)
    if decoder == "detr":
        assert found.references is None
    else:
        assert found.references.shape == (layers, queries, 4 if decoder == "dab" else 2)


def test_weights_are_those_of_torch(tiny_cfg, image, padding):
    model = build(tiny_cfg)
    decoder, layer = model.transformer.decoder, model.transformer.decoder.layers[-1]
    contents = []
    layer.norm1.register_forward_hook(lambda _, args, content: contents.append(content))
    queries, memory, _ = inputs_of(decoder, model, image)
    decoder_inputs = contents[0] + queries.position, memory.tokens + memory.pos, memory.tokens
    encoder_layer = model.transformer.encoder.layers[0]
    encoder_inputs = inputs_of(encoder_layer.self_attn, model, image)[:3]
    mask = memory.mask.view(memory.shapes[0])
    assert mask.any() and not mask.all()

    found = attention(model, image)
    for weights, own, inputs in (
        (found.encoder[0], encoder_layer.self_attn, encoder_inputs),
        (found.decoder[-1], layer.multihead_attn, decoder_inputs),
    ):
        torchs = nn.MultiheadAttention(
            own.out_proj.in_features, own.attend.num_heads, batch_first=True
        ).eval()
        torchs.load_state_dict(own.state_dict())
        with torch.no_grad():
            _, expected = torchs(*inputs, key_padding_mask=~memory.mask, average_attn_weights=False)
        expected = expected[0, :, memory.mask[0]] if own is encoder_layer.self_attn else expected[0]
        expected = expected[..., memory.mask[0]]
        assert weights.shape[-2:] == (mask.any(1).sum(), mask.any(0).sum())
        np.testing.assert_allclose(weights.reshape(expected.shape), expected, atol=1e-6)


@pytest.mark.parametrize("decoder", ["conditional", "dab"])
def test_weights_of_content_and_place(tiny_cfg, image, padding, decoder):
    """In each head, content meets content and place meets place, and both products are added."""
    model = build(tiny_cfg, decoder)
    for index, layer in enumerate(model.transformer.decoder.layers):
        own = layer.cross_attn
        content, position, spatial, tokens, pos, mask = inputs_of(own, model, image)
        with torch.no_grad():
            q, k = own.q_content(content), own.k_content(tokens)
            if index == 0:
                q, k = q + own.q_position(position), k + own.k_position(pos)
            contents, places = (
                torch.einsum(
                    "qnd,snd->nqs", *(x[0].unflatten(-1, (own.num_heads, -1)) for x in pair)
                )
                for pair in ((q, k), (own.q_sine(spatial), own.k_position(pos)))
            )
            width = 2 * content.shape[-1] // own.num_heads
            products = (contents + places) / width**0.5
            expected = products[..., mask[0]].softmax(-1)
        weights = attention(model, image).decoder[index]
        np.testing.assert_allclose(weights.reshape(expected.shape), expected, atol=1e-6)


def test_maps_of_the_mask_head_and_the_mode_of_a_model(tiny_mask_cfg, image, padding):
    model = build(tiny_mask_cfg).train()
    found = attention(model, image)
    assert found.masks.shape[-2:] == (4, 6)  # of 4 x 8 cells of 16 pixels
    np.testing.assert_allclose(found.masks.sum((1, 2, 3)), 1, atol=1e-5)
    assert all(module.training for module in model.modules())


def test_model_without_attention(image):
    with pytest.raises(UserError, match="is a Linear, which does not attend"):
        attention(nn.Linear(1, 1), image)


def test_attention_without_a_weight_for_every_cell(tiny_cfg, image):
    model = build(tiny_cfg)
    model.transformer.decoder.layers[0].multihead_attn = nn.Identity()
    with pytest.raises(UserError, match="A DETRDecoderLayer has 0 attentions to the image"):
        attention(model, image)


def sampling(cfg, decoder, levels):
    detr = cfg.MODEL.DETR
    detr.ENCODER, detr.NUM_LEVELS = "deformable", levels
    if levels > 1:
        cfg.MODEL.RESNETS.OUT_FEATURES = detr.IN_FEATURES = ["res2", "res3"]
    model = build(cfg, decoder)
    for name, parameter in model.named_parameters():
        if "sampling_offsets" in name or "attention_weights" in name:
            nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize("decoder", ["deformable", "dino"])
def test_samples_of_several_feature_maps(tiny_cfg, image, decoder):
    model = sampling(tiny_cfg, decoder, levels=3)
    found = attention(model, image)
    layers, heads, queries, *grid = found.decoder.shape
    assert tuple(grid) == (4, 6)  # of res3
    assert found.encoder.shape == (len(model.transformer.encoder.layers), heads, *grid, *grid)
    assert found.samples.shape == (layers, heads, queries, 3 * 4, 3)
    np.testing.assert_allclose(found.samples[..., 2].sum(-1), 1, atol=1e-5)
    for weights in (found.encoder, found.decoder):
        sums = weights.sum((-2, -1))
        assert sums.mean() > 0.2 and sums.max() < 1 + 1e-5


def test_weights_of_samples_give_what_the_layer_gives(tiny_cfg, image, padding):
    model = sampling(tiny_cfg, "deformable", levels=1)
    found = attention(model, image)
    for layer, weights in zip(model.transformer.decoder.layers, found.decoder, strict=True):
        query, reference, tokens, mask, shapes = inputs_of(layer.cross_attn, model, image)
        own = layer.cross_attn
        with torch.no_grad():
            value = own.value_proj(tokens)[0, mask[0]].unflatten(-1, (own.num_heads, -1))
            seen = torch.einsum("hqs,shd->qhd", torch.from_numpy(weights).flatten(2), value)
            expected = own(query, reference, tokens, mask, shapes)[0]
            torch.testing.assert_close(own.output_proj(seen.flatten(1)), expected)


def test_weighing_every_cell_of_several_feature_maps_cannot_be_shown(tiny_cfg, image):
    with pytest.raises(UserError, match="every cell of several feature maps cannot be shown"):
        attention(sampling(tiny_cfg, "conditional", levels=3), image)
