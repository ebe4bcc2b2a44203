"""What ends a run before its budget."""

import pytest

from sfumato.cli import main
from sfumato.training import checkpoint, loop
from sfumato.training.stop import flat


def log(losses, every=100):
    """Lines of a log, with a held-out loss in every second one."""
    return [{"images": (i + 1) * every, "held_out_loss": loss} for i, loss in enumerate(losses)] + [{"images": 1, "loss": 0.1}]


def test_a_loss_is_flat_when_its_last_third_gained_less_than_half_a_percent():
    falling = [1 / (1 + i) for i in range(12)]
    assert not flat(log(falling))
    assert flat(log([*falling[:8], *4 * [falling[7]]]))
    assert flat(log([*falling[:8], *4 * [0.996 * falling[7]]]))
    assert not flat(log([*falling[:8], *3 * [falling[7]], 0.994 * falling[7]]))  # one lower value is a gain
    assert flat(log([*falling[:8], *4 * [2.0]]))  # rising counts as flat


def test_few_values_tell_nothing():
    assert not flat([])
    assert not flat(log(9 * [1.0]))  # three in the last third
    assert flat(log(10 * [1.0]))
    assert not flat([{"images": i, "loss": 1.0} for i in range(100)])


@pytest.mark.parametrize("when", ["plateau", None])
def test_a_run_ends_on_a_plateau_if_asked(tmp_path, monkeypatch, capsys, when):
    monkeypatch.setattr(loop, "held_out_loss", lambda *args: 1.0)
    flags = "--images 1k --batch 10 --log-every 10 --net unet:width=8,mults=(1,) --precision float32 --sampling-steps 1"
    typed = f"train digits --run {tmp_path / 'r'} {flags}" + f" --stop-when {when}" * bool(when)
    assert main(typed.split()) == 0
    out = capsys.readouterr().out
    images = int(checkpoint.listed(tmp_path / "r" / "checkpoints")[-1].name)
    assert images == (10 * 8 * 10 if when else 1000)  # ten held-out losses, one in eight lines
    assert ("no longer falls" in out) == bool(when)
    assert "Type the same command again" not in out
    if when:  # the same command again says the same and trains no further; without the flag training goes on
        assert main(typed.split()) == 0
        assert int(checkpoint.listed(tmp_path / "r" / "checkpoints")[-1].name) == images
        assert main(typed.replace(f" --stop-when {when}", "").split()) == 0
        assert int(checkpoint.listed(tmp_path / "r" / "checkpoints")[-1].name) == 1000
