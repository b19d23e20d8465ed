"""JPEGs decoded by torchcodec, as on a GPU: its decoder of the CPU stands in where there is none."""

from __future__ import annotations

import io
import sys

import factories
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from appliance import storage
from appliance.errors import ConfigError, ImageError
from appliance.images.decoding import DecodedImage, decode_image
from appliance.images.gpu_jpeg import GpuJpegDecoder, averaged
from appliance.model.predictor import Predictor
from appliance.on_ray import cluster, serving
from appliance.scoring import ImageScorer

pytest.importorskip("torchcodec", reason="needs the extra gpu-jpeg")
ORIENTATION = 0x0112
RGB = Image.linear_gradient("L").resize((61, 47)).convert("RGB")


@pytest.fixture(scope="module")
def decoder() -> GpuJpegDecoder:
    return GpuJpegDecoder(torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def smooth(width: int, height: int) -> Image.Image:
    """Colours without edges, where decoders differ by rounding alone."""
    down, right = np.linspace(0, 255, height), np.linspace(0, 255, width)
    planes = np.broadcast_arrays(down[:, None], right[None, :], 128.0)
    return Image.fromarray(np.stack(planes, axis=-1).astype(np.uint8))


def jpeg(image: Image.Image, orientation: int = 1, **options) -> bytes:
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    return factories.encoded(image, "JPEG", exif=tags, quality=95, **options)


def assert_alike(found: DecodedImage, expected: DecodedImage) -> None:
    assert found.size_hw == expected.size_hw
    assert found.pixels.shape == expected.pixels.shape
    difference = found.pixels.cpu().float() - expected.pixels.float()
    assert difference.abs().mean() < 1.5
    assert difference.abs().max() <= 12


@pytest.mark.parametrize("orientation", range(1, 9))
def test_it_stands_upright_as_pillow_has_it(decoder, orientation: int) -> None:
    data = jpeg(smooth(64, 40), orientation)
    assert_alike(decode_image(data, source="a", gpu_jpeg=decoder), decode_image(data, source="a"))


@pytest.mark.parametrize("options", [{"progressive": True}, {"subsampling": 2}, {"subsampling": 0}])
def test_it_reads_what_pillow_reads(decoder, options) -> None:
    for image in (smooth(70, 50), smooth(70, 50).convert("L")):
        data = jpeg(image, **options)
        assert_alike(
            decode_image(data, source="a", gpu_jpeg=decoder), decode_image(data, source="a")
        )


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 700), st.integers(1, 700), st.integers(8, 200), st.integers(1, 8))
def test_it_is_scaled_down_to_the_same_size(width, height, shorter_px, orientation) -> None:
    data = jpeg(smooth(width, height), orientation)
    on_device, plain = (
        decode_image(data, source="a", min_shorter_side_px=shorter_px, gpu_jpeg=gpu_jpeg)
        for gpu_jpeg in (GpuJpegDecoder(torch.device("cpu")), None)
    )
    assert on_device.size_hw == plain.size_hw
    assert on_device.pixels.shape == plain.pixels.shape
    difference = on_device.pixels.float() - plain.pixels.float()
    assert difference.abs().mean() < 1.5


def test_each_pixel_becomes_the_mean_of_a_square() -> None:
    pixels = torch.tensor([[0, 2, 9], [4, 5, 8], [7, 8, 255]], dtype=torch.uint8).expand(3, 3, 3)
    # (0 + 2 + 4 + 5) / 4 = 2.75, and what is left of the squares at the edges.
    expected = torch.tensor([[3, 9], [8, 255]], dtype=torch.uint8)
    assert torch.equal(averaged(pixels, 2), expected.expand(3, 2, 2))
    assert averaged(pixels, 1) is pixels


def adobe_rgb() -> bytes:
    """A JPEG that holds red, green and blue as they are."""
    return jpeg(RGB, keep_rgb=True)


@pytest.mark.parametrize(
    "data",
    [
        factories.encoded(RGB, "PNG"),
        jpeg(RGB.convert("CMYK")),
        adobe_rgb(),
        jpeg(RGB) + b"made by a camera",
    ],
    ids=["png", "cmyk", "adobe rgb", "trailing bytes"],
)
def test_the_rest_goes_the_ordinary_way(decoder, data: bytes) -> None:
    with Image.open(io.BytesIO(data)) as image:
        assert decoder(data, image) is None
    found = decode_image(data, source="a", gpu_jpeg=decoder)
    assert torch.equal(found.pixels, decode_image(data, source="a").pixels)


@pytest.mark.parametrize("kept", [0.5, 0.98])
def test_damage_is_told_in_the_same_words(decoder, kept: float) -> None:
    whole = jpeg(smooth(300, 200))
    damaged = [whole[: int(len(whole) * kept)], whole[:200] + b"\xff\xd9"]
    for data in damaged:
        with pytest.raises(ImageError) as plain:
            decode_image(data, source="a")
        with pytest.raises(ImageError) as on_device:
            decode_image(data, source="a", gpu_jpeg=decoder)
        assert str(on_device.value) == str(plain.value)


def test_what_is_detected_stays_the_same(decoder, tiny_model_path, tiny_scenes) -> None:
    predictor = Predictor.load(str(tiny_model_path))
    items = [(i.name, storage.read_bytes(i.storage_path)) for i in tiny_scenes.images]
    plain = ImageScorer(predictor).score(items)
    on_device = ImageScorer(predictor, gpu_jpeg=decoder).score(items)
    for first, second in zip(plain, on_device, strict=True):
        assert second.content_sha256 == first.content_sha256
        assert len(second.detections) == len(first.detections)


def test_without_a_gpu_it_is_refused(tiny_model_path) -> None:
    with pytest.raises(ConfigError, match="only where it detects, too .got device cpu"):
        ImageScorer.load(str(tiny_model_path), device="cpu", gpu_jpeg=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("options", [(), ("--gpus-per-worker", 0)], ids=["default", "no gpus"])
def test_a_batch_job_is_refused_before_a_cluster_starts(
    run_appliance, tiny_model_path, tmp_path, monkeypatch, capsys, options
) -> None:
    # As when this process had joined none.
    monkeypatch.setattr(cluster, "joins_a_cluster", lambda address: False)
    monkeypatch.setattr(cluster, "connect", lambda address: pytest.fail("a cluster is wanted"))
    (tmp_path / "a.jpg").write_bytes(jpeg(RGB))
    out = tmp_path / "scores"
    command = ("score", tiny_model_path, tmp_path / "a.jpg", out, "--gpu-jpeg", *options)
    assert run_appliance(*command) == 1
    assert capsys.readouterr().err == (
        "error: JPEGs can be decoded on the GPU only where it detects, too (got device cpu). "
        "Leave gpu_jpeg out, or choose a GPU.\n"
    )
    assert not out.exists()


def test_a_service_is_refused_before_a_cluster_starts(tiny_model_path, monkeypatch) -> None:
    monkeypatch.setattr(serving, "connect", lambda *_, **__: pytest.fail("a cluster is wanted"))
    settings = {"model": str(tiny_model_path), "gpu_jpeg": True}
    with pytest.raises(ConfigError, match="gpu_jpeg needs num_gpus above 0") as caught:
        serving.serve_in_foreground(settings, host="127.0.0.1", port=0, address=None)
    assert "\n" not in str(caught.value)


def test_without_the_extra_it_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    with pytest.raises(ConfigError, match=r"needs torchcodec.*gpu-jpeg"):
        GpuJpegDecoder(torch.device("cpu"))
