"""What no reference covers, held to what must be true of it: fusion, geometry, batching, sizes and costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from e3sn_lib.config import ModelConfig
from e3sn_lib.losses import mask_loss
from e3sn_lib.model.backbone import Backbone, adapt_imagenet_weights
from e3sn_lib.model.correlation import DepthwiseCorrelation
from e3sn_lib.model.network import E3SN, MARGIN, Search, Template, build_model, count_parameters
from e3sn_lib.model.windows import Cells, Windows, index_windows
from e3sn_lib.profiles.loading import load_profile

SMALL = ModelConfig(backbone="resnet18", channels=16)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def network(config: ModelConfig) -> E3SN:
    """Random weights, and statistics that keep the values of every layer apart."""
    model = build_model(config).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model


def pictures(count: int, size: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8)


def encoded(model: E3SN, count: int) -> tuple[Template, Search]:
    template, search = pictures(count, 127), pictures(count, 255)
    with torch.inference_mode():
        return model.encode_template(template), model.encode_search(search)


def random_cells(images: int, count: int) -> Cells:
    return Cells(*(torch.randint(limit, (count,)) for limit in (images, 25, 25)))


CORNERS = Cells(
    torch.tensor([0, 1, 0, 1]), torch.tensor([0, 0, 24, 24]), torch.tensor([0, 24, 0, 24])
)


def close(one: Tensor, other: Tensor, relative: float = 1e-5) -> bool:
    return one.shape == other.shape and bool(
        (one - other).abs().max() <= relative * other.abs().max()
    )


def test_both_ways_to_gather_windows_are_one_function() -> None:
    """That of the CPU and that of GPUs, values and gradients."""
    limits = ((0, 2), (0, 4), (0, 6))
    image, top, left = (torch.randint(*each, (40,)) for each in limits)
    values, found = torch.rand(2, 3, 10, 12), []
    places = torch.stack([image, top, left], dim=1).tolist()
    for gather in (
        lambda maps: Windows.apply(maps, places, 7),
        lambda maps: index_windows(maps, image, top, left, 7),
    ):
        maps = values.clone().requires_grad_()
        windows = gather(maps)
        (windows * torch.arange(windows.numel()).reshape(windows.shape)).sum().backward()  # type: ignore[no-untyped-call]
        found.append((windows.detach(), maps.grad))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


class TestFusion:
    @pytest.mark.parametrize("fusion", ["softmax", "raw", "fixed"])
    @pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
    def test_windows_hold_what_the_fused_whole_maps_hold_there(self, backbone, fusion) -> None:
        model = network(ModelConfig(backbone=backbone, channels=16, fusion=fusion))
        if fusion != "fixed":
            model.mask.fusion.scalars.data.copy_(torch.tensor([0.5, -0.2, 0.9]))
        template, search = encoded(model, 2)
        with torch.inference_mode():
            maps = model.mask.whole_maps(template, search)
            assert [level.shape[-1] for level in maps] == [49, 25, 25]
            fine = {"size": 49, "mode": "bilinear", "align_corners": True}
            fused = model.mask.fusion([F.interpolate(level, **fine) for level in maps])
            for cells in (random_cells(2, 20), CORNERS):
                whole = fused[cells.image, :, 2 * cells.row, 2 * cells.column]
                assert close(model.correlate(template, search, cells), whole)

    def test_with_the_deepest_level_alone_e3sn_is_e3sn_s(self) -> None:
        all_levels = network(replace(SMALL, fusion="raw"))
        all_levels.mask.fusion.scalars.data.copy_(torch.tensor([0.0, 0.0, 1.0]))
        deepest = build_model(replace(SMALL, levels=(4,))).eval()
        assert deepest.mask.fusion.weights().item() == 1
        weights = all_levels.state_dict()
        deepest.load_state_dict(
            {key: weights[key] for key in deepest.state_dict() if "fusion" not in key}, strict=False
        )
        template, search = encoded(all_levels, 1)
        reduced = template._replace(levels=template.levels[2:])
        cells = random_cells(1, 2)

        def outputs(model: E3SN, template: Template) -> list[Tensor]:
            return [*model.locate(template, search), model.segment(template, search, cells)]

        with torch.inference_mode():
            both = outputs(deepest, reduced), outputs(all_levels, template)
        assert all(torch.equal(one, other) for one, other in zip(*both, strict=True))

    def test_all_weights_of_levels_start_as_one_third(self) -> None:
        for fusion in ("softmax", "raw", "fixed"):
            weights = build_model(replace(SMALL, fusion=fusion)).mask.fusion.weights()
            assert weights.tolist() == pytest.approx([1 / 3] * 3)


def test_an_untrained_mask_is_mostly_background() -> None:
    """Without features the logits are their bias: 12 % of the pixels are object, in both heads."""
    model = build_model(replace(SMALL, base_head=True))
    last = model.refine.post2, model.base_head[-1]  # type: ignore[index]
    for layer in last:
        assert torch.sigmoid(layer.bias).tolist() == pytest.approx(
            [0.12] * len(layer.bias), abs=0.002
        )


def test_the_mean_of_a_correlation_is_its_sum_over_the_area() -> None:
    mean, total = (DepthwiseCorrelation(4, scale).eval() for scale in ("mean", "sum"))
    mean.load_state_dict(total.state_dict())
    template, windows = torch.randn(2, 4, 7, 7), torch.randn(2, 4, 7, 7)
    with torch.inference_mode():
        found = [each.at_windows(each.kernel(template), windows) for each in (mean, total)]
    assert close(found[0], found[1] / 5**2)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_imagenet_s_shortcuts_keep_their_centre(name: str) -> None:
    """As 3x3 kernels they are what the 1x1 ones were, on the pixels of the main path."""
    weights, backbone = getattr(torchvision.models, name)(weights=None).state_dict(), Backbone(name)
    backbone.load_state_dict(adapt_imagenet_weights(weights, backbone))
    for skipped in (False, True):
        if skipped:
            backbone.skip_zero_taps()
        for layer, padding in (("layer2", 0), ("layer3", 1)):
            shortcut = getattr(backbone, layer)[0].downsample[0]
            features = torch.randn(1, shortcut.in_channels, 15, 17)
            at_centres = features if padding else features[..., 1:-1:2, 1:-1:2]
            expected = F.conv2d(at_centres, weights[f"{layer}.0.downsample.0.weight"])
            assert shortcut.centre_only == skipped
            assert close(shortcut(features), expected)


def test_layout_v1_has_its_stride_in_the_first_1x1() -> None:
    """Every second pixel of the 1x1 convolution goes into a plain 3x3 one (ResNet of 2015)."""
    backbone = Backbone("resnet50", "v1")
    for block, channels, stride in ((backbone.layer2[0], 256, 2), (backbone.layer3[0], 512, 1)):
        features = torch.randn(1, channels, 31, 31)
        first, second = block.conv1.weight, block.conv2.weight
        if stride == 2:
            expected = F.conv2d(F.conv2d(features[..., 1::2, 1::2], first), second, padding=1)
        else:  # what had stride 2 is dilated instead
            expected = F.conv2d(F.conv2d(features, first), second, padding=2, dilation=2)
        assert close(block.conv2(block.conv1(features)), expected)


class TestNegativeSamples:
    def gradients(self, model: E3SN, keep: int) -> list[Tensor]:
        """Of the mask loss by every parameter, with the first `keep` of three positive samples and a negative one."""
        torch.manual_seed(1)
        images = pictures(1, 127), pictures(1, 255)
        cells = Cells(
            torch.zeros(4, dtype=torch.int64),
            torch.tensor([11, 12, 13, 2]),
            torch.tensor([12, 12, 11, 20]),
        )
        truth = torch.where(torch.rand(4, 127, 127) < 0.5, 1.0, -1.0)
        labels = torch.tensor([1, 1, 1, -1])
        output = model(*images, Cells(*(part[:keep] for part in cells)))
        loss = mask_loss(output.mask_logits, truth[:keep], labels[:keep])
        used = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return [g for g in torch.autograd.grad(loss, used, allow_unused=True) if g is not None]

    def test_the_negative_of_equation_4_moves_no_weight(self) -> None:
        model = network(SMALL)
        with_negative, without = self.gradients(model, 4), self.gradients(model, 3)
        assert len(with_negative) == len(without) > 20
        pairs = zip(with_negative, without, strict=True)
        assert all(close(one, other, 1e-4) for one, other in pairs)

    def test_its_logits_have_no_gradient(self) -> None:
        logits = torch.randn(4, 127, 127, requires_grad=True)
        truth, labels = torch.ones(4, 127, 127), torch.tensor([1, 1, 1, -1])
        (gradient,) = torch.autograd.grad(mask_loss(logits, truth, labels), logits)
        assert gradient[3].eq(0).all()
        assert gradient[:3].ne(0).all()
        loss = mask_loss(logits, truth, labels, negatives="background")
        (gradient,) = torch.autograd.grad(loss, logits)
        assert gradient.ne(0).all()


class TestGeometry:
    # cells from the border that padding reaches: 2 (resnet18) or 1.5 (resnet50) in layer1, 3 in layer2, 6 or 11 in layer3
    @pytest.mark.parametrize(
        ("backbone", "reached", "size"), [("resnet18", 12, 367), ("resnet50", 17, 415)]
    )
    def test_eight_pixels_are_one_cell(self, backbone, reached, size) -> None:
        model = network(ModelConfig(backbone=backbone, channels=16))
        scene = pictures(1, size + 8)
        with torch.inference_mode():
            template = model.encode_template(pictures(1, 127))
            maps = []
            for top, left in ((0, 0), (8, 8)):
                image = scene[..., top : top + size, left : left + size]
                features = model.backbone((image - model.mean) / model.std)
                search = Search(features, model.neck(features.p3), MARGIN[255])
                cls, loc = model.locate(template, search)
                whole = model.mask.whole_maps(template, search)
                maps.append([cls.flatten(1, 2), loc.flatten(1, 2), *whole])
        for still, moved in zip(*maps, strict=True):
            cell = 2 if still.shape[-1] > size // 8 else 1
            inner = slice(reached * cell, still.shape[-1] - reached * cell)
            assert inner.stop - inner.start >= 3 * cell
            back = moved[..., inner, inner].roll((cell, cell), (-2, -1))
            assert close(back[..., cell:, cell:], still[..., inner, inner][..., cell:, cell:])


class TestBatches:
    def test_a_batch_of_objects_is_as_many_single_calls(self) -> None:
        model, count, rows = network(SMALL), 3, torch.tensor([0, 12, 24])
        templates, searches = pictures(count, 127), pictures(count, 255)

        def compute(which: list[int]) -> list[Tensor]:
            template = model.encode_template(templates[which])
            search = model.encode_search(searches[which])
            cells = Cells(torch.arange(len(which)), rows[which], rows[which])
            return [*model.locate(template, search), model.segment(template, search, cells)]

        with torch.inference_mode():
            together = compute([0, 1, 2])
            for n in range(count):
                for one, all_of_them in zip(compute([n]), together, strict=True):
                    assert close(one, all_of_them[n : n + 1])

    def test_windows_of_one_object_do_not_depend_on_each_other(self) -> None:
        model = network(SMALL)
        template, search = encoded(model, 2)
        cells = random_cells(2, 5)
        with torch.inference_mode():
            together = model.segment(template, search, cells)
            for n in range(5):
                alone = Cells(*(part[n : n + 1] for part in cells))
                assert close(model.segment(template, search, alone), together[n : n + 1])


def on_no_device(variant: str) -> E3SN:
    with torch.device("meta"):
        return build_model(load_profile("paper", variant).model).to("meta").eval()


def flops(run: Callable[[], Any]) -> tuple[Any, int]:
    """A result, and the floating-point operations of its convolutions and matrix products, two per multiplication."""
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        result = run()
    return result, counter.get_total_flops()


def convolution(kernel: int, channels: int, out: int) -> int:
    """Operations of a convolution to 256 channels and `out` x `out` places."""
    return 2 * kernel**2 * channels * 256 * out**2


class TestSizesAndCosts:
    @pytest.mark.parametrize(
        ("variant", "parameters"),
        [("e3sn", 22_954_950), ("e3sn-s", 20_395_972), ("siammask", 21_482_052)],
    )
    def test_parameters(self, variant, parameters) -> None:
        assert count_parameters(on_no_device(variant)) == parameters

    def test_what_two_more_levels_cost(self) -> None:
        """The added convolutions in closed form: per level a 1x1, and a 3x3 on either side of the correlation."""
        windows = 4
        at = torch.arange(windows)
        cells = Cells(torch.zeros_like(at), at, at)
        images = [torch.empty(1, 3, size, size, device="meta") for size in (127, 255)]
        costs: dict[str, list[int]] = {"e3sn": [], "e3sn-s": []}
        for variant, found in costs.items():
            model = on_no_device(variant)

            def measured(
                function: Callable[..., Any], *arguments: Any, found: list[int] = found
            ) -> Any:
                result, cost = flops(lambda: function(*arguments))
                found.append(cost)
                return result

            template = measured(model.encode_template, images[0])
            search = measured(model.encode_search, images[1])
            measured(model.locate, template, search)
            measured(model.mask.at_cells, template, search, cells)
            measured(model.mask.whole_maps, template, search)
        parts = ("template", "search", "locate", "windows", "maps")
        more = (three - one for three, one in zip(costs["e3sn"], costs["e3sn-s"], strict=True))
        added = dict(zip(parts, more, strict=True))

        level2 = convolution(1, 256, 15) + convolution(3, 256, 13)
        per_window = level2 + convolution(1, 512, 7) + convolution(3, 256, 5)
        conv2 = convolution(1, 256, 63) + convolution(3, 256, 61) + 2 * 256 * 13**2 * 49**2
        conv3 = convolution(1, 512, 31) + convolution(3, 256, 29) + 2 * 256 * 5**2 * 25**2
        assert added == {
            "template": per_window,
            "search": 0,
            "locate": 0,
            "windows": windows * per_window,
            "maps": conv2 + conv3,
        }
        assert added["windows"] / windows < added["maps"] / 10
