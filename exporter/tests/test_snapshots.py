"""From a training loop to the two files."""

import contextlib
import importlib.util
import json
import struct
import sys
import tempfile
import unittest
import unittest.mock
import warnings
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from priorfit_export import Snapshots, onnx_file, prior_file


class Network(nn.Module):
    """BatchNorm after and before its layers, a LayerNorm, a dense layer on sequences, a buffer."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(6)
        self.pre = nn.BatchNorm2d(6)
        self.norm = nn.LayerNorm(6)
        self.mlp = nn.Linear(6, 6)
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.unused = nn.Linear(2, 2)
        self.fc = nn.Linear(6, 3)
        self.register_buffer("shift", torch.full((1, 6, 1, 1), 0.25))

    def forward(self, x):
        x = torch.relu(self.bn(self.stem(x)))
        x = self.pre(x) * self.scale + self.shift
        x = x.flatten(2).transpose(1, 2)
        x = x + self.mlp(self.norm(x))
        return self.fc(x.mean(1))


X = torch.randn(32, 1, 6, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(32) % 3
LAYERS = ("stem", "pre", "norm", "mlp")
WEIGHTS = {f"{layer}.{kind}" for layer in LAYERS for kind in ("weight", "bias")}
PARTS = ("mean", "var", "dev")


def train(model, snapshots, epochs=5, each=lambda: None):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(epochs):
        model.train()
        for x, y in zip(X.split(8), Y.split(8)):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        snapshots.collect()
        each()


def read(path):
    """Header and tensors of a prior file."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    entries = json.loads(data[8 : 8 + length])
    header = json.loads(entries.pop("__metadata__")["priorfit"])
    tensors = {}
    for name, entry in entries.items():
        start, end = entry["data_offsets"]
        part = bytearray(data[8 + length + start : 8 + length + end])
        tensors[name] = torch.frombuffer(part, dtype=torch.float32).view(entry["shape"])
    return header, tensors


@contextlib.contextmanager
def package_missing(name):
    """As if a package were not installed."""
    find_spec = importlib.util.find_spec

    def none(asked, *rest):
        return None if asked == name else find_spec(asked, *rest)

    patch = unittest.mock.patch
    with patch.dict(sys.modules), patch("importlib.util.find_spec", none):
        for module in [m for m in sys.modules if m.split(".")[0] == name]:
            del sys.modules[module]
        yield


class TestSnapshots(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(0)
        self.model = Network()
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        self.folder = Path(holder.name) / "new"

    def test_moments_are_those_of_the_folded_weights(self):
        snapshots = Snapshots(self.model, X[:2], rank=3, head="fc")
        self.assertEqual(snapshots.folds, [("stem", "bn")])
        taken = []

        def fuse():
            double = Network().double()
            double.load_state_dict(self.model.state_dict())
            fused = fuse_conv_bn_eval(double.stem.eval(), double.bn.eval())
            weights = dict(double.named_parameters())
            weights.update({"stem.weight": fused.weight, "stem.bias": fused.bias})
            taken.append({name: weights[name].detach() for name in WEIGHTS})

        train(self.model, snapshots, each=fuse)
        _, prior = snapshots.export(self.folder)
        header, tensors = read(prior)
        self.assertEqual((header["rank"], header["learned"]["snapshots"]), (3, 5))
        self.assertEqual(set(tensors), {f"{part}/{name}" for part in PARTS for name in WEIGHTS})
        for name in WEIGHTS:
            w = torch.stack([weights[name] for weights in taken])
            running = torch.stack([w[: t + 1].mean(0) for t in range(5)])
            close = dict(rtol=1e-6, atol=1e-9)
            torch.testing.assert_close(tensors[f"mean/{name}"], w.mean(0).float(), **close)
            var = w.var(0, correction=0).float()
            torch.testing.assert_close(tensors[f"var/{name}"], var, **close)
            torch.testing.assert_close(tensors[f"dev/{name}"], (w - running)[2:].float(), **close)

    def test_the_backbone_has_the_mean_weights_and_no_others(self):
        snapshots = Snapshots(self.model, X[:2], rank=0, head="fc")
        train(self.model, snapshots)
        backbone, prior = snapshots.export(self.folder, num_data=32, learning_rate=0.05, notes="né")
        data = backbone.read_bytes()
        statistics = {"pre.running_mean", "pre.running_var"}
        self.assertEqual(onnx_file.initialisers(data), WEIGHTS | statistics)
        header, tensors = read(prior)
        means = {name: tensors[f"mean/{name}"] for name in WEIGHTS}
        self.assertEqual(header["backbone"], prior_file.fingerprint(means))
        self.assertEqual((header["num_data"], header["learned"]["learning_rate"]), (32, 0.05))
        self.assertEqual((header["notes"], header["version"]), ("né", 1))
        graph = onnx_file._graph(data)
        initialisers = [f.value for f in onnx_file.fields(graph) if f.number == 5]
        raw = {onnx_file._value(t, 8): t for t in initialisers}
        for name, mean in means.items():
            self.assertIn(prior_file.data(mean), raw[name], name)
        inputs = [onnx_file._value(f.value, 1) for f in onnx_file.fields(graph) if f.number == 11]
        self.assertEqual(inputs, ["input"])

    def test_the_package_onnx_is_not_needed(self):
        with package_missing("onnx"):
            snapshots = Snapshots(self.model, X[:2], head="fc")
        train(self.model, snapshots, epochs=2)
        whole = snapshots.export(self.folder)[0].read_bytes()
        with package_missing("onnx"):
            self.assertEqual(snapshots.export(self.folder)[0].read_bytes(), whole)
            self.assertNotIn("onnx", sys.modules)

    def test_wrappers_are_looked_through(self):
        for wrap in (nn.DataParallel, torch.compile):
            wrapped = wrap(self.model)
            snapshots = Snapshots(wrapped, X[:2], head="fc")
            for _ in range(2):
                snapshots.collect()
            backbone, _ = snapshots.export(self.folder)
            self.assertLess(WEIGHTS, onnx_file.initialisers(backbone.read_bytes()))

    def test_equal_and_shared_weights_keep_their_names(self):
        class Twins(nn.Module):
            def __init__(self):
                super().__init__()
                self.a, self.b, self.c = (nn.Conv2d(1, 1, 1) for _ in range(3))
                self.b.load_state_dict(self.a.state_dict())
                self.c.weight = self.a.weight

            def forward(self, x):
                return self.c(torch.relu(self.b(torch.relu(self.a(x))))).flatten(1)

        model = Twins()
        snapshots = Snapshots(model, X[:2])
        for _ in range(2):
            snapshots.collect()
        names = onnx_file.initialisers(snapshots.export(self.folder)[0].read_bytes())
        self.assertEqual(names, {"a.weight", "a.bias", "b.weight", "b.bias", "c.bias"})

    def test_training_is_left_as_it_was(self):
        before = {name: t.clone() for name, t in self.model.state_dict().items()}
        self.model.train()
        snapshots = Snapshots(self.model, X[:2], head="fc")
        snapshots.collect()
        snapshots.collect()
        snapshots.export(self.folder)
        self.assertTrue(all(m.training for m in self.model.modules()))
        self.assertTrue(all(p.grad is None and p.requires_grad for p in self.model.parameters()))
        for name, tensor in self.model.state_dict().items():
            self.assertTrue(torch.equal(tensor, before[name]), name)

    def test_what_cannot_be_done_is_said_before_training(self):
        with self.assertRaisesRegex(ValueError, "no submodule 'classifier'"):
            Snapshots(self.model, X[:2], head="classifier")
        with self.assertRaisesRegex(ValueError, "rank is 1"):
            Snapshots(self.model, X[:2], rank=1)
        with self.assertWarnsRegex(UserWarning, "ends in a dense layer.*head="):
            Snapshots(nn.Sequential(nn.Flatten(), nn.Linear(36, 4)), X[:2])

        class Table(nn.Module):
            def forward(self, x):
                return {"features": x}

        with self.assertRaisesRegex(ValueError, "the model returns dict; expected a tensor"):
            Snapshots(Table(), X[:2])

    def test_a_failed_export_leaves_the_old_files(self):
        snapshots = Snapshots(self.model, X[:2], head="fc")
        snapshots.collect()
        with self.assertRaisesRegex(ValueError, "1 snapshots have no variance"):
            snapshots.export(self.folder)
        snapshots.collect()
        paths = snapshots.export(self.folder)
        before = [path.read_bytes() for path in paths]
        with self.assertRaisesRegex(ValueError, "epsilon is -1"):
            snapshots.export(self.folder, epsilon=-1)
        with self.assertRaisesRegex(ValueError, "a weight of '.*' never moved; expected an eps"):
            snapshots.export(self.folder, epsilon=0.0)
        with self.assertRaisesRegex(ValueError, "epochs is inf; expected a finite number"):
            snapshots.export(self.folder, epochs=float("inf"))
        with unittest.mock.patch.object(prior_file, "write", side_effect=OSError("disk full")):
            with self.assertRaisesRegex(OSError, "disk full"):
                snapshots.export(self.folder, notes="other")
        self.assertEqual([path.read_bytes() for path in paths], before)
        names = sorted(path.name for path in self.folder.iterdir())
        self.assertEqual(names, ["backbone.onnx", "prior.safetensors"])
        with torch.no_grad():
            self.model.mlp.weight[0, 0] = float("nan")
        with self.assertRaisesRegex(ValueError, "'mlp.weight' is not finite in snapshot 3"):
            snapshots.collect()
        self.assertEqual(snapshots.count, 2)


def distributed_process(rank, folder):
    """One of two processes that train together."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
    )
    torch.manual_seed(0)
    model = nn.parallel.DistributedDataParallel(Network(), find_unused_parameters=True)
    snapshots = Snapshots(model, X[:2], head="fc")
    train(model, snapshots, epochs=2)
    written = snapshots.export(Path(folder) / "out")
    assert (written is None, snapshots.count) == ((False, 2) if rank == 0 else (True, 0)), rank
    torch.distributed.destroy_process_group()


class TestDistributed(unittest.TestCase):
    @unittest.skipUnless(torch.distributed.is_available(), "PyTorch was built without it")
    def test_the_first_process_writes(self):
        with tempfile.TemporaryDirectory() as folder:
            torch.multiprocessing.spawn(distributed_process, (folder,), nprocs=2)
            header, tensors = read(Path(folder) / "out" / "prior.safetensors")
        self.assertEqual(header["learned"]["snapshots"], 2)
        self.assertEqual({name.partition("/")[2] for name in tensors}, WEIGHTS)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    unittest.main()
