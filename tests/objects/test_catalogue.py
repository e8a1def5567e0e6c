"""The literal facts about the 21 objects."""

import numpy as np
import pytest

from handhold.errors import InputError
from handhold.objects.catalogue import YCB, YCB_NAMES, class_index, info, is_known


def test_ids_are_one_to_twenty_one_in_order_of_their_numbers():
    assert [item.dexycb_id for item in YCB] == list(range(1, 22))
    numbers = [item.ycb_number for item in YCB]
    assert numbers == sorted(numbers) and len(set(numbers)) == 21
    assert numbers[0] == 2 and numbers[-1] == 61


def test_symmetric_and_never_grasped_objects():
    symmetric = {item.name for item in YCB if item.symmetric}
    assert symmetric == {
        "024_bowl",
        "036_wood_block",
        "052_extra_large_clamp",
        "061_foam_brick",
    }
    assert [item.name for item in YCB if not item.grasped] == ["051_large_clamp"]


def test_lookups_agree():
    for item in YCB:
        assert info(item.name) is item
        assert info(item.name[4:]) is item
        assert info(item.dexycb_id) is item
        assert class_index(item.name) == item.dexycb_id - 1
        assert is_known(item.name)
    assert class_index("random_000001") == -1
    assert class_index(None) == -1
    assert not is_known("mug")


def test_units_are_metres_and_the_diameter_is_the_boxes_diagonal():
    cracker = info("003_cracker_box")
    assert cracker.extent == pytest.approx([0.0718, 0.164, 0.2134])
    assert cracker.diameter == pytest.approx(np.sqrt(0.0718**2 + 0.164**2 + 0.2134**2))
    assert np.abs(info(10).box_centre).max() == pytest.approx(0.01871)


@pytest.mark.parametrize("wrong", [0, 22, -1, "cracker", "", None, True])
def test_unknown_objects_are_refused_with_the_choices(wrong):
    with pytest.raises(InputError, match="expected"):
        info(wrong)
    assert len(YCB_NAMES) == 21
