"""Which BatchNorms are folded, and that the network stays the same."""

import copy
import unittest

import torch
from torch import nn

from priorfit_export import folding


def randomised(model):
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
            if module.affine:
                nn.init.uniform_(module.weight, -1, 1)
                nn.init.uniform_(module.bias, -1, 1)
    return model.eval()


class Lambda(nn.Module):
    """A model whose forward pass is a function of it."""

    def __init__(self, forward, **modules):
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)
        self.function = forward

    def forward(self, x):
        return self.function(self, x)


def conv(**options):
    return nn.Conv2d(4, 4, 3, padding=1, **options)


class TestFolding(unittest.TestCase):
    def check(self, model, x, expected):
        model = randomised(model)
        found = folding.find(model, (x,))
        self.assertEqual([tuple(fold) for fold in found], expected)
        folded = copy.deepcopy(model)
        folding.apply(folded, found)
        with torch.no_grad():
            torch.testing.assert_close(folded(x), model(x), rtol=1e-4, atol=1e-5)

    def test_layers_that_a_norm_follows(self):
        image = torch.randn(2, 4, 5, 5)
        self.check(nn.Sequential(conv(), nn.BatchNorm2d(4)), image, [("0", "1")])
        grouped = nn.Sequential(conv(bias=False, groups=2), nn.BatchNorm2d(4, affine=False))
        self.check(grouped, image, [("0", "1")])
        signal = torch.randn(2, 4, 5)
        self.check(nn.Sequential(nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6)), signal, [("0", "1")])
        rows = torch.randn(3, 4)
        self.check(nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6)), rows, [("0", "1")])

    def test_norms_that_stand_elsewhere_are_left_alone(self):
        image = torch.randn(2, 4, 5, 5)
        before = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), conv())
        self.check(before, image, [])
        between = nn.Sequential(conv(), nn.ReLU(inplace=True), nn.BatchNorm2d(4))
        self.check(between, image, [])
        self.check(nn.Sequential(nn.ConvTranspose2d(4, 4, 2), nn.BatchNorm2d(4)), image, [])

    def test_norms_that_do_more_keep_what_is_more(self):
        class WithActivation(nn.BatchNorm2d):
            """As timm's: the activation is a part of the norm."""

            def __init__(self, channels):
                super().__init__(channels)
                self.act = nn.PReLU(channels)

            def forward(self, x):
                return self.act(super().forward(x))

        class Doubled(nn.BatchNorm2d):
            def forward(self, x):
                return 2 * super().forward(x)

        image = torch.randn(2, 4, 5, 5)
        self.check(nn.Sequential(conv(), WithActivation(4)), image, [("0", "1")])
        self.check(nn.Sequential(conv(), Doubled(4)), image, [])
        model = randomised(nn.Sequential(conv(), WithActivation(4)))
        folding.apply(model, folding.find(model, (image,)))
        names = {name for name, _ in model.named_parameters()}
        self.assertEqual(names, {"0.weight", "0.bias", "1.act.weight"})

    def test_a_result_that_is_read_twice_is_left_alone(self):
        def forward(self, x):
            y = self.conv(x)
            return self.norm(y) + y

        model = Lambda(forward, conv=conv(), norm=nn.BatchNorm2d(4))
        self.check(model, torch.randn(2, 4, 5, 5), [])

    def test_a_result_that_is_returned_is_left_alone(self):
        def forward(self, x):
            y = self.conv(x)
            return torch.stack([self.norm(y), y])

        model = Lambda(forward, conv=conv(), norm=nn.BatchNorm2d(4))
        self.check(model, torch.randn(2, 4, 5, 5), [])

    def test_modules_that_run_twice_are_left_alone(self):
        norm = Lambda(
            lambda m, x: m.norm(m.b(m.norm(m.a(x)))), a=conv(), b=conv(), norm=nn.BatchNorm2d(4)
        )
        self.check(norm, torch.randn(2, 4, 5, 5), [])
        layer = Lambda(
            lambda m, x: m.y(m.a(m.x(m.a(x)))), a=conv(), x=nn.BatchNorm2d(4), y=nn.BatchNorm2d(4)
        )
        self.check(layer, torch.randn(2, 4, 5, 5), [])

    def test_frozen_layers_are_folded_too(self):
        model = nn.Sequential(conv(), nn.BatchNorm2d(4)).requires_grad_(False)
        self.check(model, torch.randn(2, 4, 5, 5), [("0", "1")])


if __name__ == "__main__":
    unittest.main()
