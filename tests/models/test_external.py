"""Models from torchvision, timm and a user's file, and every way in which they can fail."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from nacdeploy import models
from nacdeploy.base import records
from nacdeploy.base.errors import MissingExtraError, UsageError
from nacdeploy.models.external import GrayToColor

FACTORY = """
from torch import nn

def make(num_classes, in_channels):
    return nn.Sequential(nn.Conv2d(in_channels, 4, 3), nn.Flatten(), nn.LazyLinear(num_classes))

class Net(nn.Sequential):
    def __init__(self, n_classes, input_size, channels=1, depth=2):
        n = channels * input_size[0] * input_size[1]
        super().__init__(nn.Flatten(), nn.Linear(n, n_classes))

def bare():
    return nn.Sequential(nn.Flatten(), nn.Linear(16 * 16, 7))

def wide(n_classes, width=8, scale=1.0):
    return nn.Sequential(nn.Flatten(), nn.Linear(16 * 16, width), nn.Linear(width, n_classes))

def relu():
    return nn.ReLU()

def text(n_classes):
    return "model"

def broken(n_classes):
    raise RuntimeError("no luck\\nat all")

def leaves():
    raise SystemExit(3)

def needy(depth):
    return nn.Linear(depth, 1)

constant = 3
"""


def _resolve(name, channels=1, input_size=(16, 16), **keywords):
    models.name_by_user(str(name))
    return models.resolve(str(name), n_classes=7, channels=channels, input_size=input_size, **keywords)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "net.py"
    path.write_text(FACTORY)
    return path


@pytest.mark.parametrize(
    ("name", "channels", "input_size"),
    [
        ("torchvision:squeezenet1_1", 1, (32, 32)),
        ("torchvision:resnet18", 3, (24, 32)),
        ("torchvision:vit_b_32", 1, (32, 32)),
        ("timm:resnet10t", 3, (32, 32)),
        ("timm:vit_tiny_patch16_224", 1, (32, 48)),
    ],
)
def test_library_model_answers_with_our_classes(name, channels, input_size):
    model = _resolve(name, channels, input_size).build().eval()
    assert model(torch.randn(2, channels, *input_size)).shape == (2, 7)


def test_training_mode_answers_with_a_tensor_when_the_model_has_auxiliary_heads():
    model = _resolve("torchvision:googlenet", 3, (32, 32)).build()
    assert isinstance(model(torch.randn(2, 3, 32, 32)), torch.Tensor)


def test_gray_to_color_repeats_the_channel():
    color = GrayToColor(nn.Identity())(torch.arange(4.0).view(1, 1, 2, 2))
    assert torch.equal(color, torch.arange(4.0).view(1, 1, 2, 2).repeat(1, 3, 1, 1))


@pytest.mark.parametrize("factory", ["Net", "bare"])
def test_file_factory_gets_the_keywords_it_names(file, factory):
    model = _resolve(f"{file}:{factory}").build()
    assert model(torch.randn(2, 1, 16, 16)).shape == (2, 7)


def test_file_factory_gets_the_other_spellings(file):
    model = _resolve(f"{file}:make", channels=2).build()
    assert model(torch.randn(2, 2, 16, 16)).shape == (2, 7)


def test_name_gives_a_file_factory_its_numbers(file):
    model = _resolve(f"{file}:wide?width=3&scale=0.5").build()
    assert [tuple(layer.weight.shape) for layer in model[1:]] == [(3, 256), (7, 3)]
    assert _resolve(f"{file}:wide").source_sha256 == _resolve(f"{file}:wide?width=3").source_sha256


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("width=wide", "'width=wide' is no argument=number, such as width=0.5"),
        ("width=nan", "'width=nan' is no argument=number"),
        ("width", "'width' is no argument=number"),
        ("widht=3", "its function has no argument 'widht'; did you mean 'width'"),
    ],
)
def test_build_fails_with_one_line_when_a_name_gives_wrong_arguments(file, query, message):
    with pytest.raises(UsageError) as raised:
        _resolve(f"{file}:wide?{query}").build()
    assert message in str(raised.value)


def test_file_model_is_of_one_class_when_built_twice(file):
    spec = _resolve(f"{file}:Net")
    assert type(spec.build()) is type(spec.build())


def test_file_model_records_the_sha256_of_its_file(file):
    assert _resolve(f"{file}:Net").source_sha256 == records.sha256_file(file)


def test_build_fails_when_the_file_has_changed(file):
    spec = _resolve(f"{file}:Net")
    spec.build()
    file.write_text(FACTORY.replace("depth=2", "depth=3"))
    with pytest.raises(UsageError, match=r"net\.py has changed: sha256 .{12}, recorded .{12}"):
        spec.build()


def test_resolve_uses_the_new_content_when_the_file_has_changed(file):
    _resolve(f"{file}:bare").build()
    file.write_text(FACTORY.replace("Linear(16 * 16, 7)", "Linear(16 * 16, 9)"))
    assert _resolve(f"{file}:bare").build()[1].out_features == 9


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("missing", r"net\.py has no function 'missing'"),
        ("constant", r"net\.py has no function 'constant'"),
        ("text", "returned str, not a torch.nn.Module"),
        ("relu", "has no convolution and no Linear layer: nothing to compress"),
        ("broken", "failed: RuntimeError: no luck$"),
        ("leaves", "failed: SystemExit: 3"),
        ("needy", "failed: TypeError: .*'depth'"),
    ],
)
def test_build_fails_with_one_line_when_the_factory_is_wrong(file, factory, message):
    with pytest.raises(UsageError, match=message) as caught:
        _resolve(f"{file}:{factory}").build()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [("def f(:", "SyntaxError"), ("import not_there", "No module named 'not_there'"), ("exit(2)", "SystemExit: 2")],
)
def test_import_leaves_nothing_behind_when_it_fails(tmp_path, source, message):
    path = tmp_path / "broken.py"
    path.write_text(source)
    with pytest.raises(UsageError, match=f"cannot be imported: .*{message}"):
        _resolve(f"{path}:make").build()
    assert not any("broken" in name for name in sys.modules if name.startswith("nacdeploy_file"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet9", "unknown model 'resnet9'; did you mean 'resnet8'.*mobilenet_v2"),
        ("torchvision:resnet19", "unknown torchvision model 'resnet19'; did you mean 'resnet18'"),
        ("timm:resnet19", "unknown timm model 'resnet19'; did you mean 'resnet1"),
        ("nowhere/net.py:make", "model file nowhere/net.py cannot be read"),
        ("net.py", "must be of the form path/file.py:factory"),
        ("net.py:", "must be of the form path/file.py:factory"),
    ],
)
def test_resolve_fails_when_the_name_is_unknown(name, message):
    with pytest.raises(UsageError, match=message):
        _resolve(name)


def test_build_fails_when_the_name_is_unknown():
    with pytest.raises(UsageError, match="unknown model 'nothing'"):
        models.ModelSpec("nothing", 7, 1, (16, 16)).build()


@pytest.mark.parametrize(
    ("name", "channels", "input_size", "message"),
    [
        ("torchvision:resnet18", 2, (32, 32), "images of 1 or 3 channels, not 2"),
        ("torchvision:vit_b_16", 3, (20, 20), "cannot be built for 20x20 images"),
        ("torchvision:vit_b_16", 3, (32, 16), "must be square"),
    ],
)
def test_build_fails_when_the_images_do_not_fit(name, channels, input_size, message):
    with pytest.raises(UsageError, match=message):
        _resolve(name, channels, input_size).build()


def test_resolve_fails_when_a_width_is_given_for_a_model_from_elsewhere(file):
    with pytest.raises(UsageError, match="width 8 is for built-in models only"):
        _resolve(f"{file}:Net", width=8)


def test_resolve_names_the_extra_when_timm_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'nacdeploy\[timm\]'"):
        _resolve("timm:resnet18")


def test_spec_survives_json():
    spec = _resolve("resnet8", width=4)
    assert records.from_data(models.ModelSpec, records.to_data(spec)) == spec


def test_heavy_packages_are_not_imported_when_they_are_not_needed():
    code = """
import sys, nacdeploy.task, nacdeploy.models as m
m.resolve('resnet8', n_classes=2, channels=1, input_size=(8, 8)).build()
print([name for name in ('torchvision', 'timm', 'sklearn', 'PIL') if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_lazy_layers_have_their_shapes(file):
    model = _resolve(f"{file}:make", channels=2).build()
    assert model[2].weight.shape == (7, 4 * 14 * 14)
    assert not any(isinstance(p, nn.UninitializedParameter) for p in model.parameters())
