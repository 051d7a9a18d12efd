"""Moments against closed forms."""

import unittest

import torch

from priorfit_export.moments import Moments


def moments(snapshots, rank):
    running = Moments(rank)
    for w in snapshots:
        running.add({"w": torch.tensor(w, dtype=torch.float64)})
    return running


def covariance(part, rank):
    rows = part.dev.double().flatten(1)
    return rows.T @ rows / (rank - 1)


class TestMoments(unittest.TestCase):
    def test_five_snapshots_of_one_weight(self):
        """Deviations are from the running mean, and only the last K are kept."""
        parts, rank = moments([[1.0], [2.0], [3.0], [4.0], [5.0]], 3).finish()
        self.assertEqual(rank, 3)
        self.assertEqual((parts["w"].mean.item(), parts["w"].var.item()), (3.0, 2.0))
        self.assertEqual(parts["w"].dev.tolist(), [[1.0], [1.5], [2.0]])
        self.assertAlmostEqual(covariance(parts["w"], rank).item(), 3.625)

    def test_the_zero_deviation_is_left_out_without_changing_the_covariance(self):
        parts, rank = moments([[0.0, 0.0], [1.0, 2.0], [2.0, 1.0], [3.0, 4.0]], 4).finish()
        self.assertEqual(rank, 3)
        self.assertEqual(parts["w"].var.tolist(), [1.25, 2.1875])
        expected = torch.tensor([[1.1666667, 1.2916667], [1.2916667, 2.0208333]]).double()
        torch.testing.assert_close(covariance(parts["w"], rank), expected)

    def test_two_deviations_keep_the_zero_one(self):
        parts, rank = moments([[0.0, 1.0], [2.0, 3.0]], 20).finish()
        self.assertEqual((rank, parts["w"].dev.tolist()), (2, [[0.0, 0.0], [1.0, 1.0]]))

    def test_a_diagonal_prior_keeps_none(self):
        parts, rank = moments([[0.0], [2.0]], 0).finish()
        self.assertEqual((rank, parts["w"].dev), (0, None))

    def test_a_small_spread_beside_a_large_mean_survives(self):
        values = [1000.0 + 1e-3 * t for t in range(50)]
        parts, _ = moments([[v] for v in values], 0).finish()
        mean = sum(values) / 50
        expected = sum((v - mean) ** 2 for v in values) / 50
        self.assertLess(abs(parts["w"].var.item() / expected - 1), 1e-6)

    def test_what_does_not_fit_changes_nothing(self):
        running = moments([[1.0, 2.0]], 2)
        for w, says in [
            ({"v": torch.zeros(2)}, "'v' is not that of the first"),
            ({"w": torch.zeros(3)}, "'w' is not that of the first"),
            ({"w": torch.tensor([1.0, float("nan")])}, "'w' is not finite in snapshot 2"),
            ({}, "0 parameters; the first snapshot had 1"),
        ]:
            with self.assertRaisesRegex(ValueError, says):
                running.add(w)
        with self.assertRaisesRegex(ValueError, "1 snapshots have no variance"):
            running.finish()
        running.add({"w": torch.tensor([3.0, 4.0]).double()})
        self.assertEqual(running.finish()[0]["w"].mean.tolist(), [2.0, 3.0])
        with self.assertRaisesRegex(ValueError, "rank is 1; expected 0"):
            Moments(1)

    def test_a_saved_state_goes_on_where_it_was(self):
        torch.manual_seed(0)
        snapshots = torch.randn(6, 5).double()
        whole, first, second = Moments(3), Moments(3), Moments(3)
        for index, w in enumerate(snapshots):
            whole.add({"w": w})
            (first if index < 2 else second).add({"w": w})
            if index == 1:
                second.load_state_dict(first.state_dict())
        for a, b in zip(whole.finish()[0]["w"], second.finish()[0]["w"]):
            self.assertTrue(torch.equal(a, b))
        with self.assertRaisesRegex(ValueError, "keeps 3 deviations; expected 2"):
            Moments(2).load_state_dict(first.state_dict())


if __name__ == "__main__":
    unittest.main()
