import math

import torch

from d2detr.layers import inverse_sigmoid, move_reference, sine_of_reference


def test_boxes_start_from_points_and_boxes():
    delta = torch.tensor([0.5, -0.5, 0.1, 2.0])
    point, box = torch.tensor([0.3, 0.6]), torch.tensor([0.3, 0.6, 0.2, 0.9])
    moved = move_reference(delta, point, 1e-5)
    torch.testing.assert_close(moved[2:], delta[2:].sigmoid())
    torch.testing.assert_close(moved[:2], (delta[:2] + point.logit()).sigmoid())
    torch.testing.assert_close(move_reference(delta * 0, box, 1e-5), box)


def test_inverse_sigmoid_is_bounded():
    x = torch.tensor([-1.0, 0.0, 0.5, 1.0])
    limit = math.log(1e3)
    torch.testing.assert_close(inverse_sigmoid(x, 1e-3), torch.tensor([-limit, -limit, 0, limit]))


def test_sines_are_in_the_order_y_x_width_height():
    reference = torch.tensor([0.1, 0.2, 0.3, 0.4])
    encoded = sine_of_reference(reference, 4)
    first = encoded[0::4]  # of the shortest wavelength
    torch.testing.assert_close(first, (reference[[1, 0, 2, 3]] * 2 * math.pi).sin())
    torch.testing.assert_close(encoded[3], (reference[1] * 2 * math.pi / 100).cos())
