"""Segment Anything: which masks are kept, with a network that knows; and a real, tiny one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support.tiny_sam import write_sam
from torch import Tensor
from transformers import SamModel

from engine.errors import RecipeError, WeightsError
from engine.models import sam
from engine.models.sam import Choice, Image, Prompt, find_masks, load_sam
from engine.models.superpixels import clip, segment
from engine.products.registry import load_recipe

SIDE = 320


def things() -> np.ndarray:
    """Numbered things on a ground of 0: boxes and a disc, one at the border."""
    found = np.zeros((SIDE, SIDE), np.uint8)
    found[20:90, 30:110] = 1
    found[200:320, 0:70] = 2
    y, x = np.mgrid[:SIDE, :SIDE]
    found[(y - 150) ** 2 + (x - 240) ** 2 < 40**2] = 3
    return found


def picture(numbers: np.ndarray) -> Image:
    """The numbers can be read off the red band, wherever it is cropped."""
    return np.stack([numbers, numbers * 30, 255 - numbers], axis=2).astype(np.uint8)


def oracle(margin: float = 10.0, sure: float = 0.95) -> Prompt:
    """Of a point the thing it lies in, surely; the ground and two doubtful masks beside."""

    def prompt(rgb: Image, points: np.ndarray) -> tuple[Tensor, Tensor]:
        numbers = rgb[..., 0]
        logits = np.full((len(points), 3, *numbers.shape), -margin, np.float32)
        foretold = np.tile(np.float32([sure, 0.5, 0.5]), (len(points), 1))
        for k, (x, y) in enumerate(points.astype(int)):
            if numbers[y, x]:
                logits[k, 0][numbers == numbers[y, x]] = margin
            else:
                foretold[k] = 0.1
        return torch.from_numpy(logits), torch.from_numpy(foretold)

    return prompt


@pytest.mark.parametrize("crops", [False, True])
def test_each_thing_is_found_once(crops: bool) -> None:
    numbers = things()
    found = find_masks(picture(numbers), oracle(), Choice(crops=crops))
    expected = {numbers[mask][0] for mask in found}
    assert expected == {1, 2, 3}
    assert len(found) == 3
    for mask in found:
        np.testing.assert_array_equal(mask, numbers == numbers[mask][0])


def test_what_is_unsure_or_unstable_is_dropped() -> None:
    image = picture(things())
    assert not len(find_masks(image, oracle(sure=0.85)))
    assert not len(find_masks(image, oracle(margin=0.5)))  # gone when the threshold moves by one


def test_holes_and_specks_are_tidied() -> None:
    numbers = things()
    rough = numbers.copy()
    rough[50:55, 60:65] = 0  # a hole in the first thing
    rough[290:293, 200:203] = 1  # a speck of it far away
    found = find_masks(picture(rough), oracle(), Choice(crops=False))
    first = next(mask for mask in found if mask[30, 40])
    np.testing.assert_array_equal(first, numbers == 1)


def test_a_thing_that_a_crop_cuts_is_taken_from_the_whole_image() -> None:
    numbers = np.zeros((SIDE, SIDE), np.uint8)
    numbers[40:280, 130:190] = 1  # over every crop's border
    found = find_masks(picture(numbers), oracle())
    assert len(found) == 1
    np.testing.assert_array_equal(found[0], numbers == 1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random network of the right form, as the library saves it."""
    return write_sam(tmp_path_factory.mktemp("sam"))


def test_a_checkpoint_is_loaded_and_asked(checkpoint: Path) -> None:
    sam._load.cache_clear()
    prompt = load_sam(checkpoint)
    assert load_sam(checkpoint) is prompt
    rgb = picture(things())[:300]  # not square: scaled, padded, scaled back
    points = np.float32([[10, 10], [200, 150], [319, 299]])
    logits, foretold = prompt(rgb, points)
    assert logits.shape == (3, 3, 300, 320)
    assert foretold.shape == (3, 3)
    assert float(logits.std()) > 0
    again, _ = prompt(rgb, points)
    torch.testing.assert_close(again, logits, rtol=0, atol=0)
    # straight through the library: the middle point, at the network's scale
    network = SamModel.from_pretrained(checkpoint, local_files_only=True).eval()
    x = torch.from_numpy(rgb.astype(np.float32)).permute(2, 0, 1)[None]
    x = torch.nn.functional.interpolate(x, (60, 64), mode="bilinear", antialias=True)
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    x = torch.nn.functional.pad((x - mean[:, None, None]) / std[:, None, None], (0, 0, 0, 4))
    with torch.inference_mode():
        expected = network(pixel_values=x, input_points=torch.tensor([[[[40.0, 30.0]]]]))
    torch.testing.assert_close(foretold[1], expected.iou_scores[0, 0], rtol=1e-4, atol=1e-5)
    everything = Choice(iou=-1e9, stability=-1.0, nms=1.0, crops=False, least=1)
    assert len(find_masks(rgb, prompt, everything)) > 10


def test_it_is_a_segmenter_like_the_others(checkpoint: Path) -> None:
    rgb = picture(things())
    valid = np.ones(rgb.shape[:2], bool)
    valid[:, 300:] = False
    found = segment(rgb, "sam", valid, checkpoint)
    areas = [one.area for one in found]
    assert areas == sorted(areas, reverse=True)
    for one in found:
        assert one.area >= 50
        assert one.left + one.mask.shape[1] <= 300
    assert 2 <= len(clip(found, 0, 0, SIDE)) <= 50  # a grid where it found nothing


def test_what_is_no_checkpoint_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no checkpoint of Segment Anything") as caught:
        load_sam(tmp_path)
    assert "config.json" in str(caught.value)
    (tmp_path / "config.json").write_text((checkpoint / "config.json").read_text())
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")  # a pickle is not looked at
    with pytest.raises(WeightsError, match=r"model\.safetensors"):
        load_sam(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"hello")
    with pytest.raises(WeightsError, match="cannot be used"):
        load_sam(tmp_path)


def test_a_recipe_says_what_it_needs() -> None:
    base = {
        "name": "x",
        "product": "lcz",
        "area": {"bbox": [13, 52, 14, 53]},
        "grid": {"crs": "EPSG:32633"},
        "imagery": {"catalog": "earth-search", "period": "2023-03-01/2023-06-30"},
        "store": "s",
    }
    sam = {"segmenter": "sam", "checkpoint": "./sam", "segmentation": "per_window"}
    assert load_recipe({**base, "instances": sam}).instances.made["segmenter"] == "sam"
    with pytest.raises(RecipeError, match="checkpoint go together"):
        load_recipe({**base, "instances": {"segmenter": "sam"}})
    with pytest.raises(RecipeError, match="set per_window"):
        load_recipe({**base, "instances": {**sam, "segmentation": "shared"}})
