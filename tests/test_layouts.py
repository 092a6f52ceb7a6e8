"""Label maps to dream of, and the few kB of statistics they may be drawn from."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from css.dream.layouts import LayoutStatistics, ignore_boundary, sample_layouts
from css.system.processes import Processes
from tasks import InputError


def shares(layouts, channel):
    return (layouts == channel).float().mean((1, 2))


def test_every_class_gets_its_share_and_nothing_covers_it():
    layouts = sample_layouts(20, 64, range(1, 8), seed=0)
    assert layouts.shape == (20, 64, 64) and layouts.dtype == torch.uint8
    assert set(layouts.unique().tolist()) == set(range(8))
    for channel in range(1, 8):
        area = shares(layouts, channel)
        assert (area > 0.04).sum() >= 20 // 7  # as the first object, of at least 5 %
    kinds = [len(set(layout.unique().tolist()) - {0}) for layout in layouts]
    assert set(kinds) <= {1, 2, 3} and len(set(kinds)) > 1
    assert (layouts == 0).flatten(1).any(1).all()


def test_same_seed_same_layouts():
    first, again, other = (sample_layouts(6, 32, [1, 2], seed) for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_class_without_room():
    with pytest.raises(InputError, match=r"--options.dream.count 3 leaves no room"):
        sample_layouts(3, 32, [1, 2, 3, 4], 0)


def test_one_class_alone():
    layouts = sample_layouts(4, 32, [5], 0)
    assert set(layouts.unique().tolist()) == {0, 5}


def corner_maps(num=8, size=64):
    """Class 1: small, top left, always with class 2, which is large and below; class 3 alone in the middle."""
    labels = torch.zeros(num, size, size, dtype=torch.uint8)
    half = num // 2
    labels[:half, :12, :12] = 1
    labels[:half, size // 2 :] = 2
    labels[half:, 24:40, 24:40] = 3
    labels[:, 20, :] = 255
    return labels


def test_statistics_count_what_they_say():
    statistics = LayoutStatistics()
    statistics.update(corner_maps(), 4)
    assert statistics.company.diagonal().tolist() == [8, 4, 4, 4]
    assert statistics.company[1, 2] == 4 and statistics.company[1, 3] == 0
    assert statistics.areas.sum(1).tolist() == [8, 4, 4, 4]
    assert statistics.places[1].sum().item() == pytest.approx(4) and statistics.places[1, 0, 0] > 1
    assert statistics.places[1, 4:].sum() == 0
    assert sum(t.numel() * t.element_size() for t in statistics.tensors().values()) < 4096


def test_layouts_drawn_from_statistics_look_like_them():
    statistics = LayoutStatistics()
    statistics.update(corner_maps(), 4)
    layouts = sample_layouts(60, 64, [1, 2, 3], 0, statistics)
    free = sample_layouts(60, 64, [1, 2, 3], 0)
    shown = torch.stack([shares(layouts, c) > 0 for c in (1, 2, 3)], 1)
    assert not (shown[:, 0] & shown[:, 2]).any()  # 1 and 3 were never seen together
    assert (shown[:, 0] & shown[:, 1]).sum() >= 15
    ones = layouts[shown[:, 0] & ~shown[:, 2]]
    assert shares(ones, 1).max() < 0.15 < shares(free, 1).max()
    assert (ones[:, 48:] == 1).sum() < 0.02 * (ones == 1).sum()  # at the top, as it was seen
    assert shares(layouts[shown[:, 1]], 2).max() > 0.3


def test_unknown_classes_are_drawn_freely():
    statistics = LayoutStatistics()
    statistics.update(corner_maps(), 4)
    layouts = sample_layouts(8, 32, [4, 5], 0, statistics)
    assert set(layouts.unique().tolist()) == {0, 4, 5}
    assert any({4, 5} <= objects(layout) for layout in layouts)  # company, too


def test_statistics_of_tasks_add_up_and_come_back():
    parts, whole = LayoutStatistics(), LayoutStatistics()
    first, second = corner_maps()[:4], corner_maps()[4:]
    for labels, channels in ((first, 3), (second, 4)):
        task = LayoutStatistics()
        task.update(labels, channels)
        parts.add(task)
        whole.update(labels, channels)
    again = LayoutStatistics.from_tensors(parts.tensors())
    for name, value in whole.tensors().items():
        torch.testing.assert_close(again.tensors()[name], value)
    empty = LayoutStatistics.from_tensors(LayoutStatistics().tensors())
    empty.add(parts)
    assert torch.equal(empty.company, parts.company)


def test_boundary_band():
    labels = torch.zeros(1, 9, 9, dtype=torch.uint8)
    labels[:, :, 4:] = 2
    banded = ignore_boundary(labels, 2)[0, 4].tolist()
    assert banded == [0, 0, 255, 255, 255, 255, 2, 2, 2]
    assert torch.equal(ignore_boundary(labels, 0), labels)
    assert torch.equal(ignore_boundary(labels[:, :, :4], 2), labels[:, :, :4])


def objects(layout):
    return set(layout.unique().tolist()) - {0, 255}


@settings(max_examples=15, deadline=None)
@given(num=st.integers(1, 30), first=st.integers(1, 20), data=st.data())
def test_fair_share_of_any_number_of_classes(num, first, data):
    channels = range(first, first + data.draw(st.integers(1, num)))
    layouts = sample_layouts(num, 32, channels, seed=num)
    assert all(1 <= len(objects(layout)) <= 3 and objects(layout) <= set(channels) for layout in layouts)
    for channel in channels:
        assert sum(channel in objects(layout) for layout in layouts) >= num // len(channels)


def test_no_object_hides_most_of_another():
    """Of an object of at least 5 % of the map at least half is seen."""
    layouts = sample_layouts(200, 40, range(1, 9), seed=3)
    assert min(shares(layout[None], channel).item() for layout in layouts for channel in objects(layout)) > 0.024


@pytest.mark.parametrize("channels", [[], [0, 1]])
def test_background_is_no_object(channels):
    with pytest.raises(ValueError, match="above 0"):
        sample_layouts(4, 32, channels, seed=0)


def test_statistics_of_hand_made_maps():
    statistics = LayoutStatistics()
    labels = torch.zeros(3, 16, 16, dtype=torch.uint8)
    labels[0, :8, :8] = 1  # a quarter of the map
    labels[1, :2, 14:] = 2  # one cell of 8 x 8
    labels[1, 8:, :] = 1  # half of it
    labels[2] = 255
    statistics.update(labels, 3)
    assert statistics.company.tolist() == [[2, 2, 1], [2, 2, 1], [1, 1, 1]]
    assert statistics.areas[1].nonzero().flatten().tolist() == [5, 7]  # sqrt(1/4) = 0.5, sqrt(1/2) = 0.707
    assert statistics.areas[2].nonzero().flatten().tolist() == [1]  # sqrt(1/64) = 0.125
    expected = torch.zeros(8, 8, dtype=torch.float64)
    expected[:4, :4] += 1 / 16
    expected[4:] += 1 / 32
    torch.testing.assert_close(statistics.places[1], expected)
    assert statistics.places[2].nonzero().tolist() == [[0, 7]] and statistics.places[2].sum() == 1


def test_statistics_of_odd_sizes_and_of_channels_that_came_later():
    generator = torch.Generator().manual_seed(0)
    early = torch.randint(0, 3, (4, 20, 13), generator=generator).byte()
    late = torch.randint(0, 5, (2, 20, 13), generator=generator).byte()
    together, apart = LayoutStatistics(), LayoutStatistics()
    together.update(torch.cat([early, late]), 5)
    apart.update(late, 5)
    apart.update(early, 3)  # knows fewer channels
    apart.reduce(Processes())
    for name, expected in together.tensors().items():
        torch.testing.assert_close(apart.tensors()[name], expected)
    assert together.company[0, 0] == 6 and together.places[0].sum().item() == pytest.approx(6)


def test_thin_objects_are_never_ignored_as_a_whole():
    labels = torch.zeros(1, 32, 32, dtype=torch.uint8)
    labels[0, 15:17] = 1  # two pixels thin
    labels[0, 3, 3] = 2
    assert objects(ignore_boundary(labels, 8)[0]) == {1, 2}
    layouts = sample_layouts(40, 48, range(1, 9), seed=1)
    for layout, kept in zip(layouts, ignore_boundary(layouts, 10), strict=True):
        assert objects(kept) == objects(layout)
        assert torch.equal(kept[kept != 255], layout[kept != 255])
