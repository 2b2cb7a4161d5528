"""Optimisation equals Ultralytics' trainer, setting by setting."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from spineseg.config import conf_dir
from spineseg.errors import ConfigError
from spineseg.models.yolo import YOLOv8Seg
from spineseg.tasks.optim import Optimization, parameter_groups


@pytest.fixture(scope="module")
def net() -> YOLOv8Seg:
    return YOLOv8Seg(channels=3, num_classes=1, scale="n")


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_groups_are_those_of_ultralytics(net: YOLOv8Seg, name: str) -> None:
    from ultralytics.engine.trainer import BaseTrainer

    stand_in = SimpleNamespace(args=SimpleNamespace(warmup_bias_lr=0.1), data={"nc": 1})
    theirs = BaseTrainer.build_optimizer(stand_in, net.model, name=name, lr=0.01, momentum=0.937, decay=5e-4)
    ours = Optimization(optimizer=name).build(net, batch_size=16)
    assert type(ours) is type(theirs)
    by_group = {group["param_group"]: group for group in theirs.param_groups}
    for group, key in zip(ours.param_groups, ("weight", "bn", "bias"), strict=True):
        assert {id(p) for p in group["params"]} == {id(p) for p in by_group[key]["params"]}
        assert group["weight_decay"] == pytest.approx(by_group[key]["weight_decay"])
        assert group.get("nesterov") == by_group[key].get("nesterov")
        assert group.get("betas") == by_group[key].get("betas")


def test_every_parameter_is_in_one_group(net: YOLOv8Seg) -> None:
    grouped = [id(p) for group in parameter_groups(net) for p in group]
    assert sorted(grouped) == sorted(id(p) for p in net.parameters())


def ultralytics_loop(
    o: Optimization, *, epochs: int, batches: int, batch_size: int
) -> list[tuple[list[float], float, int]]:
    """Rates, momentum and accumulation of each batch by the rules of Ultralytics' training loop."""
    accumulate = target = min(max(round((o.nominal_batch or batch_size) / batch_size), 1), batches * epochs)
    warm_epochs = min(o.warmup_epochs, max(epochs - 1, 0))
    nw = round(warm_epochs * batches) if warm_epochs > 0 else 0
    rates, momentum, rows = [o.lr0] * 3, o.momentum, []
    for epoch in range(epochs):
        if o.schedule == "cosine":
            factor = max((1 - np.cos(epoch * np.pi / epochs)) / 2, 0) * (o.lrf - 1) + 1
        else:
            factor = max(1 - epoch / epochs, 0) * (1 - o.lrf) + o.lrf
        rates = [o.lr0 * factor] * 3
        for i in range(batches):
            ni = i + batches * epoch
            if nw and ni <= nw:
                accumulate = max(1, int(np.interp(ni, [0, nw], [1, target]).round()))
                starts = [0.0, 0.0, o.warmup_bias_lr]
                rates = [float(np.interp(ni, [0, nw], [start, o.lr0 * factor])) for start in starts]
                momentum = float(np.interp(ni, [0, nw], [o.warmup_momentum, o.momentum]))
            rows.append((list(rates), momentum, accumulate))
    return rows


@given(
    st.sampled_from(["linear", "cosine"]),
    st.integers(1, 8),
    st.integers(1, 12),
    st.sampled_from([2, 16, 64, 100]),
    st.sampled_from([0.0, 0.5, 3.0]),
)
def test_settings_follow_ultralytics_loop(schedule: str, epochs: int, batches: int, batch: int, warmup: float) -> None:
    o = Optimization(schedule=schedule, warmup_epochs=warmup)
    expected = ultralytics_loop(o, epochs=epochs, batches=batches, batch_size=batch)
    for seen, (rates, momentum, summed) in enumerate(expected):
        found = o.settings_at(seen, seen // batches, epochs=epochs, batches=batches, batch_size=batch)
        assert found[0] == pytest.approx(rates, abs=1e-12)
        assert found[1] == pytest.approx(momentum)
        assert found[2] == summed


def test_weight_decay_scales_with_the_nominal_batch(net: YOLOv8Seg) -> None:
    assert Optimization().build(net, 16).param_groups[0]["weight_decay"] == pytest.approx(5e-4)
    assert Optimization().build(net, 100).param_groups[0]["weight_decay"] == pytest.approx(5e-4 * 100 / 64)
    assert Optimization(nominal_batch=None).build(net, 100).param_groups[0]["weight_decay"] == pytest.approx(5e-4)


def test_apply_sets_rates_and_momentum(net: YOLOv8Seg) -> None:
    o = Optimization()
    optimizer = o.build(net, 16)
    o.apply(optimizer, [0.1, 0.2, 0.3], 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.2, 0.3]
    assert all(group["momentum"] == 0.5 for group in optimizer.param_groups)
    assert [group["name"] for group in optimizer.param_groups] == ["weights", "norms", "biases"]
    assert isinstance(optimizer, torch.optim.SGD)


def test_closed_choices() -> None:
    with pytest.raises(ConfigError, match="SGD or AdamW"):
        Optimization(optimizer="Adam")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="linear, cosine or poly"):
        Optimization(schedule="step")  # type: ignore[arg-type]


def nnunet_recipe() -> Optimization:
    node = yaml.safe_load((conf_dir() / "optim" / "nnunet.yaml").read_text())
    return Optimization(**{key: value for key, value in node.items() if key != "_target_"})


def small_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.InstanceNorm2d(4, affine=True), nn.LeakyReLU(0.01), nn.Conv2d(4, 2, 1))


def test_poly_is_nnunets_schedule() -> None:
    polylr = pytest.importorskip("nnunetv2.training.lr_scheduler.polylr")
    theirs = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.01)
    scheduler = polylr.PolyLRScheduler(theirs, 0.01, 12)
    o = nnunet_recipe()
    for epoch in range(12):
        scheduler.step(epoch)
        rates, momentum, summed = o.settings_at(3 * epoch + 1, epoch, epochs=12, batches=3, batch_size=2)
        assert rates == [pytest.approx(theirs.param_groups[0]["lr"], rel=1e-12)] * 3
        assert (momentum, summed) == (0.99, 1)


def test_nnunets_recipe_is_torchs_sgd_step_by_step() -> None:
    """Its settings as nnunetv2's trainer has them: one group, all of it decayed, (1 − epoch ÷ epochs)^0.9."""
    ours, theirs = small_net(), small_net()
    o = nnunet_recipe()
    mine = o.build(ours, batch_size=2)
    his = torch.optim.SGD(theirs.parameters(), 0.01, weight_decay=3e-5, momentum=0.99, nesterov=True)
    generator = torch.Generator().manual_seed(0)
    for batch in range(12):
        epoch = batch // 3
        rates, momentum, _ = o.settings_at(batch, epoch, epochs=4, batches=3, batch_size=2)
        o.apply(mine, rates, momentum)
        his.param_groups[0]["lr"] = 0.01 * (1 - epoch / 4) ** 0.9
        images = torch.randn(2, 1, 8, 8, generator=generator)
        for net, optimizer in ((ours, mine), (theirs, his)):
            optimizer.zero_grad()
            (net(images) - 1).square().mean().backward()
            optimizer.step()
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)
