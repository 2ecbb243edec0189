"""What the expert computes, compared with plain loops."""

import torch
from tove_expert_template.adapter import ColourStatistics


def test_a_plain_image_has_its_colour_as_mean_and_no_spread():
    image = torch.tensor([0.2, 0.5, 0.7])[None, :, None, None].expand(1, 3, 15, 10)
    found = ColourStatistics(5)(image)["statistics"]
    assert found.shape == (1, 6, 3, 2)
    torch.testing.assert_close(found[0, :3], image[0, :, :3, :2])
    torch.testing.assert_close(found[0, 3:], torch.zeros(3, 3, 2), atol=1e-3, rtol=0)


def test_each_cell_has_the_statistics_of_its_own_pixels():
    image = torch.rand(2, 3, 12, 18, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = ColourStatistics(6)(image)["statistics"]
    for row in range(2):
        for column in range(3):
            cell = image[:, :, 6 * row : 6 * row + 6, 6 * column : 6 * column + 6].flatten(2)
            torch.testing.assert_close(found[:, :3, row, column], cell.mean(2))
            torch.testing.assert_close(found[:, 3:, row, column], cell.std(2, correction=0))
